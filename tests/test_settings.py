"""pool.toml and the environment: what is read, and one line for everything that is wrong."""

import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.choices import NOTICE_KINDS
from pool_mcp.errors import InvalidRequest, SettingsError
from pool_mcp.model import CallerBudget, DayHours, Subscription
from pool_mcp.settings import AdminSettings, ClaudeSettings, Settings, SubscriptionSettings, load, shown
from pool_mcp.system.places import read_env

DEFAULT = Subscription(
    id="default",
    config_dir=None,
    api_key_env=None,
    oauth_token_env=None,
    plan="",
    weekly_budget_nanousd=456_000_000_000,
    block_budget_nanousd=25_000_000_000,
    week_is_default=True,
    block_is_default=True,
    priority=0,
    max_in_flight=15,
    enabled=True,
)


def read(home: Path, toml: str, **env: str) -> Settings:
    (home / "pool.toml").write_text(toml)
    return load({"POOL_MCP_HOME": str(home), **env})


def refusal(home: Path, toml: str, **env: str) -> str:
    """The error's one line, with the file's name instead of its path."""
    with pytest.raises(SettingsError) as caught:
        read(home, toml, **env)
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(home / "pool.toml"), "pool.toml")


# What is read


def test_without_a_file_there_is_one_subscription_on_the_clis_own_login(tmp_path: Path) -> None:
    assert load({"POOL_MCP_HOME": str(tmp_path)}) == Settings(
        config_file=tmp_path / "pool.toml",
        state_dir=tmp_path,
        strategy="headroom",
        claude=ClaudeSettings(
            path="claude",
            inline_wait_s=45,
            timeout_s=1800,
            tool_profile="none",
            base_url="",
            keep_answers_days=7,
            spares="auto",
            spare_ttl_s=120,
        ),
        subscriptions=(DEFAULT,),
        callers={},
        admin=AdminSettings(api_key_env="ANTHROPIC_ADMIN_KEY", base_url=""),
    )


EVERYTHING = """
strategy = "health"
weekly_budget_usd = 100
block_budget_usd = 5.5

[claude]
path = "/opt/claude"
inline_wait_s = 1
timeout_s = 2.5
tool_profile = "full"
base_url = "http://127.0.0.1:1"
keep_answers_days = 0.5
spares = "eager"
spare_ttl_s = 30

[[subscriptions]]
id = "personal"
config_dir = "logins/../logins/personal"
plan = "max"
weekly_budget_usd = 0.000000001
block_budget_usd = 1_000_000
priority = -3
max_in_flight = 1

[[subscriptions]]
id = "work-key"
api_key_env = "WORK_KEY"
enabled = false

[[subscriptions]]
id = "build.box_2"
oauth_token_env = "_TOKEN"
config_dir = "/srv/claude"

[callers."night agent"]
daily_budget_usd = 5
[callers.day]
weekly_budget_usd = 0.1

[admin]
api_key_env = "ADMIN"
base_url = "http://127.0.0.1:2"
"""


def test_everything_that_can_be_set_is_taken_over(tmp_path: Path) -> None:
    def subscription(name: str, **said: object) -> Subscription:
        inherited: dict[str, object] = {"weekly_budget_nanousd": 100_000_000_000, "block_budget_nanousd": 5_500_000_000}
        inherited |= {"week_is_default": False, "block_is_default": False}
        values = {name: getattr(DEFAULT, name) for name in DEFAULT.__slots__}
        return Subscription(**{**values, **inherited, **said, "id": name})

    assert read(tmp_path, EVERYTHING) == Settings(
        config_file=tmp_path / "pool.toml",
        state_dir=tmp_path,
        strategy="health",
        claude=ClaudeSettings(
            path="/opt/claude",
            inline_wait_s=1,
            timeout_s=2.5,
            tool_profile="full",
            base_url="http://127.0.0.1:1",
            keep_answers_days=0.5,
            spares="eager",
            spare_ttl_s=30,
        ),
        subscriptions=(
            subscription(
                "personal",
                config_dir=tmp_path / "logins" / "personal",
                plan="max",
                weekly_budget_nanousd=1,
                block_budget_nanousd=1_000_000_000_000_000,
                priority=-3,
                max_in_flight=1,
            ),
            subscription(
                "work-key", api_key_env="WORK_KEY", enabled=False, config_dir=tmp_path / "config" / "work-key"
            ),
            subscription("build.box_2", oauth_token_env="_TOKEN", config_dir=Path("/srv/claude")),
        ),
        callers={
            "night agent": CallerBudget(daily_nanousd=5_000_000_000),
            "day": CallerBudget(weekly_nanousd=100_000_000),
        },
        admin=AdminSettings(api_key_env="ADMIN", base_url="http://127.0.0.1:2"),
    )


def test_a_share_for_the_person_is_a_number_for_all_windows_or_one_for_each(tmp_path: Path) -> None:
    toml = one('keep_percent = 25\nkeep_hours = "18:30-00:15"\n') + '[[subscriptions]]\nid = "b"\nconfig_dir = "b"\n'
    found = read(tmp_path, toml + "keep_percent = { seven_day = 12.5 }", TZ="Europe/Berlin")
    assert [(each.keep_percent, each.keep_hours) for each in found.subscriptions] == [
        ({"*": 25}, DayHours(18 * 60 + 30, 15, ZoneInfo("Europe/Berlin"))),
        ({"seven_day": 12.5}, None),
    ]
    written = [(each.get("keep_percent"), each.get("keep_hours")) for each in shown(found)["subscriptions"]]
    assert written == [(25, "18:30-00:15"), ({"seven_day": 12.5}, None)]


def test_the_state_has_its_places_in_the_home(tmp_path: Path) -> None:
    settings = load({"POOL_MCP_HOME": str(tmp_path)})
    assert (settings.ledger_path, settings.runs_dir, settings.owners_dir) == (
        tmp_path / "ledger.db",
        tmp_path / "runs",
        tmp_path / "owners",
    )


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, '\ufeffstrategy = "health"').strategy == "health"


def test_an_unknown_subscription_is_answered_with_those_there_are(tmp_path: Path) -> None:
    settings = read(tmp_path, EVERYTHING)
    assert settings.subscription("work-key") == settings.subscriptions[1]
    with pytest.raises(InvalidRequest) as caught:
        settings.subscription("work")
    assert caught.value.message == (
        "No subscription 'work'; there are: personal, work-key, build.box_2. Leave it out to let the pool choose."
    )


# The environment


def test_the_hosts_settings_win_over_the_file(tmp_path: Path) -> None:
    toml = 'weekly_budget_usd = 1\n[claude]\npath = "mine"\ntimeout_s = 5\n[[subscriptions]]\nid = "a"'
    settings = read(tmp_path, toml, POOL_MCP_CLAUDE_PATH="theirs", POOL_MCP_WEEKLY_BUDGET_USD=" 12.5 ")
    assert (settings.claude, settings.subscriptions[0].weekly_budget_nanousd) == (
        ClaudeSettings(path="theirs", timeout_s=5),
        12_500_000_000,
    )


def test_the_hosts_settings_hold_without_a_file(tmp_path: Path) -> None:
    settings = load({"POOL_MCP_HOME": str(tmp_path), "POOL_MCP_CLAUDE_PATH": "theirs"})
    assert settings.claude == ClaudeSettings(path="theirs")


@pytest.mark.parametrize("unset", ["", "  ", "${user_config.claude_path}", "${user_config.weekly_budget_usd}"])
def test_what_a_host_leaves_unfilled_is_not_set(tmp_path: Path, unset: str) -> None:
    env = {"POOL_MCP_CLAUDE_PATH": unset, "POOL_MCP_WEEKLY_BUDGET_USD": unset}
    assert load({"POOL_MCP_HOME": str(tmp_path), **env}) == load({"POOL_MCP_HOME": str(tmp_path)})
    assert read_env(env, "POOL_MCP_CLAUDE_PATH") is None


@pytest.mark.parametrize("home", ["", "${user_config.home}"])
def test_without_a_home_the_platforms_directories_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    settings = load({"POOL_MCP_HOME": home})
    places = (settings.config_file.parent, settings.state_dir)
    assert [place.name for place in places if tmp_path in place.parents] == ["pool-mcp", "pool-mcp"]


@pytest.mark.parametrize("wrong", ["$456", "nan", "inf", "0", "-1", "1e9", "456 USD"])
def test_a_budget_from_the_host_that_is_none_is_refused_by_the_variables_name(tmp_path: Path, wrong: str) -> None:
    assert refusal(tmp_path, "", POOL_MCP_WEEKLY_BUDGET_USD=wrong) == (
        f"POOL_MCP_WEEKLY_BUDGET_USD is {wrong!r}; it must be a number of dollars, such as 456"
    )


# What is wrong

IN_FILE = (
    "admin, block_budget_usd, callers, claude, ledger, metrics, notify, projects, strategy, subscriptions, "
    "weekly_budget_usd"
)
IN_CALLER = "daily_budget_usd, models, monthly_budget_usd, share, weekly_budget_usd"
IN_CLAUDE = ", ".join(sorted(ClaudeSettings.model_fields))
IN_SUBSCRIPTION = ", ".join(sorted(SubscriptionSettings.model_fields))
KEY = "sk-ant-api03-" + "0123456789abcdef" * 6
NAME_OF_VARIABLE = "must be the name of an environment variable (letters, digits, _), never a key itself"


A_SHARE = "must be a percentage, 0 to 100, or { five_hour = 30, seven_day = 20 }"
WINDOWS = "use five_hour, seven_day, or one such as seven_day_opus"


def one(toml: str) -> str:
    return f'[[subscriptions]]\nid = "a"\n{toml}'


LABEL = "choose a short name, and put the key into a variable (api_key_env)"
ADDRESS = "must be a server's address, such as https://gateway.example.com, without name or password"
LABELS = (
    (one(f'plan = "{KEY}"'), "subscriptions.0.plan"),
    (f'[[notify]]\ncommand = ["curl", "-H", "Authorization: {KEY}"]', "notify.0.command.2"),
)
PLACES = (
    (one(f'config_dir = "{KEY}"'), "subscriptions.0.config_dir"),
    (f'[claude]\npath = "{KEY}"', "claude.path"),
    (f'[claude]\nallowed_dirs = ["/srv", "{KEY}"]', "claude.allowed_dirs.1"),
)
BASE_URLS = (
    ("claude", KEY),
    ("claude", f"https://me:{KEY}@gateway.example.com"),
    ("claude", f"https://gateway.example.com/{KEY}"),
    ("claude", "https://gateway.example.com?key=x"),
    ("admin", KEY),
)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('strategy = "best"', "strategy: input should be 'headroom' or 'health', not 'best'"),
        ('stratgy = "health"', f"stratgy: unknown key (did you mean strategy?); allowed here: {IN_FILE}"),
        ("zzz = 1", f"zzz: unknown key; allowed here: {IN_FILE}"),
        ("weekly_budget_usd = 0", "weekly_budget_usd: input should be greater than 0, not 0"),
        ("weekly_budget_usd = nan", "weekly_budget_usd: input should be a finite number, not nan"),
        ("weekly_budget_usd = inf", "weekly_budget_usd: input should be a finite number, not inf"),
        ("weekly_budget_usd = true", "weekly_budget_usd: input should be a valid number, not true"),
        ('block_budget_usd = "25"', "block_budget_usd: input should be a valid number, not '25'"),
        ("block_budget_usd = 2e6", "block_budget_usd: input should be less than or equal to 1000000, not 2000000.0"),
        ("claude = 5", "claude: must be a table, written [claude]"),
        ("[claude]\npath = 5", "claude.path: input should be a valid string, not 5"),
        (
            '[claude]\npaths = "x"',
            f"claude.paths: unknown key (did you mean path?); allowed here: {IN_CLAUDE}",
        ),
        (
            '[claude]\ntool_profile = "all"',
            "claude.tool_profile: input should be 'none', 'read' or 'full', not 'all'",
        ),
        ("[claude]\ntimeout_s = 0", "claude.timeout_s: input should be greater than 0, not 0"),
        ("[claude]\ntimeout_s = 86401", "claude.timeout_s: input should be less than or equal to 86400, not 86401"),
        ("[claude]\ninline_wait_s = -1", "claude.inline_wait_s: input should be greater than 0, not -1"),
        ('[subscriptions]\nid = "a"', "subscriptions: must be a table, written [[subscriptions]]"),
        ("subscriptions = [5]", "subscriptions.0: must be a table, written [[subscriptions]]"),
        ("subscriptions = []", "subscriptions: at least one [[subscriptions]] table is needed"),
        ('[[subscriptions]]\nplan = "max"', "subscriptions.0.id: field required"),
        (
            '[[subscriptions]]\nid = "../a"',
            "subscriptions.0.id: string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$', not '../a'",
        ),
        ("[callers.x]\nshare = 0", "callers.x.share: input should be greater than 0, not 0"),
        ("[callers.x]\nshare = 101", "callers.x.share: input should be less than or equal to 100, not 101"),
        (
            '[callers.x]\nmodels = ["a model"]',
            "callers.x.models.0: string should match pattern '^[A-Za-z0-9._:-]{1,64}$', not 'a model'",
        ),
        ('[metrics]\notlp_endpoint = "collector:4318"', f"metrics.otlp_endpoint: {ADDRESS}, not 'collector:4318'"),
        ("[metrics]\ninterval_s = 0", "metrics.interval_s: input should be greater than or equal to 1, not 0"),
        (
            f'[metrics]\nheaders = {{ Authorization = "Bearer {KEY}" }}',
            f"metrics.headers.Authorization: {NAME_OF_VARIABLE}",
        ),
        ("[projects.x]\ndaily_budget_usd = 0", "projects.x.daily_budget_usd: input should be greater than 0, not 0"),
        (
            "[projects.x]\nshare = 5",
            "projects.x.share: unknown key; allowed here: daily_budget_usd, monthly_budget_usd, weekly_budget_usd",
        ),
        (
            one("keep_percent = 101"),
            f"subscriptions.0.keep_percent: {A_SHARE}, not 101",
        ),
        (
            one("keep_percent = { five_hour = 30, seven_day = true }"),
            f"subscriptions.0.keep_percent: {A_SHARE}",
        ),
        (
            one("keep_percent = { weekly = 5 }"),
            f"subscriptions.0.keep_percent: no window is called 'weekly'; {WINDOWS}",
        ),
        (one('keep_hours = "09:00-18:00"'), "subscriptions.0: has keep_hours without keep_percent; set that, too"),
        (
            one('keep_percent = 5\nkeep_hours = "9-18"'),
            "subscriptions.0.keep_hours: must be two different times of day, such as \"22:00-07:00\", not '9-18'",
        ),
        (
            one('keep_percent = 5\napi_key_env = "A"'),
            "subscriptions.0: has keep_percent and api_key_env; a key has no windows of which to keep a part",
        ),
        (
            one("") + one('config_dir = "x"'),
            "subscriptions: two have the id 'a'; ids are unique",
        ),
        (
            one("") + '[[subscriptions]]\nid = "b"',
            "subscriptions: 'a' and 'b' share the config_dir (the default); each login needs its own",
        ),
        (
            one('config_dir = "/srv/x"\n') + '[[subscriptions]]\nid = "b"\nconfig_dir = "/srv/y/../x"',
            "subscriptions: 'a' and 'b' share the config_dir /srv/x; each login needs its own",
        ),
        (
            one('api_key_env = "A"\noauth_token_env = "B"'),
            "subscriptions.0: has both api_key_env and oauth_token_env; keep one",
        ),
        (one("priority = 1.5"), "subscriptions.0.priority: input should be a valid integer, not 1.5"),
        (
            one("max_in_flight = 0"),
            "subscriptions.0.max_in_flight: input should be greater than or equal to 1, not 0",
        ),
        (one('enabled = "no"'), "subscriptions.0.enabled: input should be a valid boolean, not 'no'"),
        (one('config_dir = ""'), "subscriptions.0.config_dir: string should have at least 1 character, not ''"),
        (
            one('config_dir = "~no-such-user/x"'),
            "subscriptions: config_dir of 'a': there is no home directory for '~no-such-user/x'; write the whole path",
        ),
        (
            one('api_key = "sk-ant-api03-secret"'),
            f"subscriptions.0.api_key: unknown key (did you mean api_key_env?); allowed here: {IN_SUBSCRIPTION}",
        ),
        (one('api_key_env = "sk-ant-api03-secret"'), f"subscriptions.0.api_key_env: {NAME_OF_VARIABLE}"),
        (one('oauth_token_env = "sk-ant-oat01-secret"'), f"subscriptions.0.oauth_token_env: {NAME_OF_VARIABLE}"),
        ('[admin]\napi_key_env = "sk-ant-admin01-secret"', f"admin.api_key_env: {NAME_OF_VARIABLE}"),
        ("[admin]\nkey = 1", "admin.key: unknown key; allowed here: api_key_env, base_url"),
        ("[callers]\nx = 5", "callers.x: must be a table, written [callers.x]"),
        (
            "[callers.x]\ndaily = 5",
            f"callers.x.daily: unknown key; allowed here: {IN_CALLER}",
        ),
        (
            '[callers."night agent"]\ndaily_budget_usd = -5',
            "callers.night agent.daily_budget_usd: input should be greater than 0, not -5",
        ),
        (
            "weekly_budget_usd = 1e-10",
            "weekly_budget_usd: must be at least 0.000000001, not 1e-10",
        ),
        (
            f'[[subscriptions]]\nid = "{KEY[:40]}"',
            "subscriptions.0.id: looks like a key; choose a short name, and put the key into a variable (api_key_env)",
        ),
        (
            one(f'console_key_id = "{KEY}"'),
            "subscriptions.0.console_key_id: string should match pattern '^apikey_[A-Za-z0-9]{1,64}$'",
        ),
        (
            one('console_key_id = "a key of 40 letters that begins like none"'),
            "subscriptions.0.console_key_id: string should match pattern '^apikey_[A-Za-z0-9]{1,64}$'",
        ),
        (f'"{KEY}" = 1', f"[a secret, not shown]: unknown key; allowed here: {IN_FILE}"),
        (
            f'[callers."{KEY}"]\ndaily = 1',
            f"callers.[a secret, not shown]: looks like a key; {LABEL}",
        ),
        *((toml, f"{key}: looks like a key; {LABEL}") for toml, key in LABELS),
        *((toml, f"{key}: looks like a key; put it into a variable (api_key_env)") for toml, key in PLACES),
        (
            f'[[notify]]\nurl = "https://a.example"\nheaders = {{ "{KEY}" = "A" }}',
            f"notify.0.headers.[a secret, not shown]: {NAME_OF_VARIABLE}",
        ),
        *((f'[{name}]\nbase_url = "{url}"', f"{name}.base_url: {ADDRESS}") for name, url in BASE_URLS),
        (one('plan = "\\u001b]0;x"'), "subscriptions.0.plan: holds a control character; remove it, not '\\x1b]0;x'"),
        (
            one('config_dir = "a\\u0000"'),
            "subscriptions.0.config_dir: holds a control character; remove it, not 'a\\x00'",
        ),
        ('[claude]\npath = "a\\nb"', "claude.path: holds a control character; remove it, not 'a\\nb'"),
        (
            '[[notify]]\ncommand = ["a\\u0000"]',
            "notify.0.command.0: holds a control character; remove it, not 'a\\x00'",
        ),
        ("a = " + "[" * 5000, "not valid TOML: nested too deeply"),
        ("weekly_budget_usd = " + "1" * 400, "weekly_budget_usd: input should be a valid number"),
        ("a = = 1", "not valid TOML: Invalid value (at line 1, column 5)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_file_key_and_what_is_allowed(
    tmp_path: Path, toml: str, expected: str
) -> None:
    assert refusal(tmp_path, toml) == f"pool.toml: {expected}"


def test_a_number_of_thousands_of_digits_is_refused_in_one_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "weekly_budget_usd = " + "1" * 5000).startswith(
        "pool.toml: not valid TOML: Exceeds the limit"
    )


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "pool.toml").write_bytes(b"plan = '\xff'")
    with pytest.raises(SettingsError, match=r"pool\.toml: cannot be read: 'utf-8' codec can't decode byte 0xff"):
        load({"POOL_MCP_HOME": str(tmp_path)})
    (tmp_path / "pool.toml").unlink()
    (tmp_path / "pool.toml").mkdir()
    with pytest.raises(SettingsError, match=r"pool\.toml: cannot be read: .*Is a directory"):
        load({"POOL_MCP_HOME": str(tmp_path)})


def test_a_home_of_nobody_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"POOL_MCP_HOME": "~no-such-user/pool"})
    assert caught.value.message == (
        "POOL_MCP_HOME: there is no home directory for '~no-such-user/pool'; write the whole path"
    )


keys = st.sampled_from([*IN_FILE.split(", "), *IN_CLAUDE.split(", "), *IN_SUBSCRIPTION.split(", "), "other"])
values = st.sampled_from(
    [
        f'"{KEY}"',
        "1e-10",
        "[[[[",
        '"\\u001b[31m"',
        '"x"',
        '""',
        "0",
        "-1",
        "1.5",
        "true",
        "[]",
        "{}",
        "[{}]",
        "nan",
        "1979-05-27",
        '{id = "a"}',
    ]
)
sections = st.sampled_from(["", "[claude]", "[[subscriptions]]", "[callers.x]", "[admin]", "[subscriptions]"])


@given(st.dictionaries(sections, st.dictionaries(keys, values, max_size=3), max_size=3))
def test_a_file_is_read_or_refused_in_one_line_whatever_it_holds(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, dict[str, str]]
) -> None:
    home = tmp_path_factory.mktemp("home")
    tables = sorted(said.items())  # the one without a head comes first
    toml = "\n".join(
        f"{head}\n" + "".join(f"{key} = {value}\n" for key, value in body.items()) for head, body in tables
    )
    try:
        read(home, toml)
    except SettingsError as error:
        message = error.message
        assert message.startswith(f"{home / 'pool.toml'}: ")
        assert KEY not in message
        assert message.isprintable()
        assert "\n" not in message


def receiver(more: str) -> str:
    return f"[[notify]]\n{more}"


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("", "0: needs either url or command"),
        ('url = "https://a.example"\ncommand = ["b"]', "0: needs either url or command"),
        (f'url = "ftp://{KEY}"', "0.url: must be a web address, such as https://ntfy.example.com/my-topic"),
        (
            'url = "https://me:word@a.example"',
            "0.url: must not hold a name or password; name a variable under headers, such as Authorization",
        ),
        ("command = []", "0.command: tuple should have at least 1 item after validation, not 0"),
        ('command = ["a"]\nkind = "ntfy"', "0: headers and kind belong to a url; a command gets the JSON on stdin"),
        (
            f'url = "https://a.example"\nheaders = {{ Authorization = "Bearer {KEY}" }}',
            f"0.headers.Authorization: {NAME_OF_VARIABLE}",
        ),
        (
            'command = ["a"]\nquiet_hours = "22-7"',
            "0.quiet_hours: must be two different times of day, such as \"22:00-07:00\", not '22-7'",
        ),
        (
            'command = ["a"]\non = ["queue_done"]',
            f"0.on.0: input should be {', '.join(map(repr, NOTICE_KINDS[:-1]))} or 'organization', not 'queue_done'",
        ),
    ],
)
def test_a_receiver_of_notices_that_cannot_be_is_refused_in_one_line_without_its_address(
    tmp_path: Path, toml: str, expected: str
) -> None:
    assert refusal(tmp_path, receiver(toml)) == f"pool.toml: notify.{expected}"


def test_a_receiver_stands_in_the_settings_once(tmp_path: Path) -> None:
    twice = 'command = ["a"]\n[[notify]]\ncommand = ["a"]'
    expected = "pool.toml: notify: two are for the same receiver at a; make them one"
    assert refusal(tmp_path, receiver(twice)) == expected


def test_an_address_may_be_a_secret_and_is_not_shown(tmp_path: Path) -> None:
    settings = read(tmp_path, receiver('url = "https://hooks.example/T0/SECRET"'))
    (one,) = settings.notify
    assert "SECRET" not in one.name + json.dumps(shown(settings))
    assert one.name.startswith("hooks.example ")
