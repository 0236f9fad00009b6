"""`python examples/api_client.py [URL] [--auth USER:PASSWORD]`: train, wait and draw through a running `dreamtune ui`.

Needs nothing but gradio_client (`pip install gradio_client`), on any machine that reaches the app. Everything is
called by name: data sets, adapters and jobs have names, and no path is ever sent.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:7860")
    parser.add_argument("--auth", help="USER:PASSWORD, if the app asks for them")
    parser.add_argument(
        "--pictures", type=Path, help="folder with pictures of your subject; the sample cat if not given"
    )
    parser.add_argument("--class", dest="class_word", default="cat")
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    user, _, password = (args.auth or "").partition(":")
    client = Client(args.url, auth=(user, password) if user else None, verbose=False)

    dataset = "sample-cat"
    if args.pictures:
        files = [handle_file(str(path)) for path in sorted(args.pictures.iterdir()) if path.suffix.lower() != ".md"]
        dataset = client.predict(files, "", api_name="/upload")
    print("check   ", client.predict(dataset, args.class_word, api_name="/check")["usable"], "usable images")

    job: dict[str, Any] = client.predict(dataset, args.class_word, {"steps": args.steps}, "", api_name="/train")
    while job["state"] in ("queued", "running", "stopping"):
        print(f"{job['state']:8} {job['phase'] or ''} {job['done'] or 0} of {job['total'] or '?'}", flush=True)
        time.sleep(2)
        job = client.predict(job["id"], api_name="/job")
    print(f"{job['state']:8} {job['message'] or ''}")
    if job["state"] == "done":
        prompt = f"a sks {args.class_word} on the beach"
        drawn = client.predict(prompt, {job["out"]: 1.0}, 2, 0, {}, api_name="/generate")
        for file in drawn["files"]:
            print("picture ", file if isinstance(file, str) else file["path"])


if __name__ == "__main__":
    main()
