// Calls a server's tools by the TypeScript SDK, which compares each result with its tool's output schema.
//
// argv: the folder with node_modules. stdin: {command, args, env, calls: [[tool, arguments], …]}; in arguments $RUN_ID is
// the last run that was named. stdout: a line of JSON for each call, {result} or {thrown}.
const { createRequire } = require("node:module");
const packages = createRequire(`${process.argv[2]}/here.cjs`);
const { Client } = packages("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = packages("@modelcontextprotocol/sdk/client/stdio.js");

async function main() {
  const { calls, ...server } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
  const client = new Client({ name: "typescript", version: "1" }, { capabilities: {} });
  await client.connect(new StdioClientTransport(server));
  await client.listTools(); // the SDK keeps the output schemas
  let runId = "";
  for (const [name, given] of calls) {
    const args = JSON.parse(JSON.stringify(given).replaceAll("$RUN_ID", runId));
    let said;
    try {
      const result = await client.callTool({ name, arguments: args }, undefined, { timeout: 120_000 });
      runId = result.structuredContent?.run_id ?? runId;
      said = { result };
    } catch (error) {
      said = { thrown: String(error.message) };
    }
    process.stdout.write(`${JSON.stringify(said)}\n`);
  }
  await client.close();
}

main();
