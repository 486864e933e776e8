"""What kind of disk a folder is on."""

from pathlib import Path

_NETWORK = {
    *(
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "davfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "orangefs",
    ),
    *("smb2", "smb3", "smbfs", "webdav"),
    *("fuse.ceph", "fuse.davfs2", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
}


def network_file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The kind of network file system that a folder is on; None for a local disk, and where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # no Linux
        return None
    there, kind = "", None
    resolved = str(folder.resolve())
    for line in lines:
        # id parent major:minor root mount-point options … - type source options; spaces are written as \040
        before, _, after = line.partition(" - ")
        fields, types = before.split(), after.split()
        if len(fields) < 5 or not types:
            continue
        point = _unescaped(fields[4])
        if len(point) >= len(there) and (resolved == point or resolved.startswith(point.rstrip("/") + "/")):
            there, kind = point, types[0]  # the last one that is mounted on a place is the one that is seen
    return kind if kind in _NETWORK else None


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
