"""Names and paths that somebody sends who means no good."""

PATHS = (
    "../../etc/passwd",
    "..",
    ".",
    "",
    "/etc/passwd",
    "//host/share/x",
    "\\\\host\\share\\x",
    "C:\\x",
    "runs/../../x",
    "runs/%2e%2e/x",
    "..%2f..%2fetc%2fpasswd",
    "x\0.safetensors",
    "~/.ssh/id_rsa",
    "runs/link/adapter",
    "\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}/x",
    "x" * 5000,
    "file:///etc/passwd",
)
HTML = '<img src=x onerror="window.pwned=1">${globalThis.pwned=1}{{constructor}}`\'&'
