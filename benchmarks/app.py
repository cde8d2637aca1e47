"""The app under load: the first image, sixteen users at once, and five hundred bad requests.

    python benchmarks/app.py                       writes docs/benchmarks/app.md
    python benchmarks/app.py --parts hostile --hostile 20 --dry
    python benchmarks/app.py --picture             draws docs/images/app.png

First image: from the click in a headless chromium to an image on the screen. Clients: each asks
for a prompt, a scale and a seed of its own; what it gets is compared with the same run alone.
Memory is the server process's, before and a minute after, when the pages are closed. Hostile:
truncated, mistyped, huge and malformed files and fields, paths that lead outside, NaN; each must
be refused with an error, the server must answer after it, and no answer may hold a traceback or a
file.
"""

import argparse
import concurrent.futures
import io
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from report import machine, write_report

ROOT = Path(__file__).parent.parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PARTS = ("first", "clients", "hostile")
STRICT = ("loss", "canvas", "steps", "scale", "seeds", "model")  # that take none of what is sent
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")


def start() -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "demos" / "app.py"), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("listening on "):
            return server, line.split()[-1].rstrip("/")
    raise SystemExit("the app did not start")


def ask(k: int, steps: int) -> dict[str, Any]:
    colour, shape, ground = COLOURS[k % 8], ("circle", "heart")[k // 8 % 2], COLOURS[(k + 3) % 8]
    prompt = f"a {colour} {shape} on a {ground} background"
    fields = {"prompt": prompt, "negative": "", "loss": "sds", "canvas": "pixels", "lr": 0}
    more = {"steps": steps, "scale": 10 + k, "seeds": str(k), "model": "shapes"}
    more |= {"source": None, "shows": ""}
    return fields | more | {"api_name": "/optimize"}


def one_client(address: str, k: int, steps: int) -> tuple[float, float, bytes]:
    """Seconds to the first image and to the last, and the last one's bytes."""
    from gradio_client import Client

    client = Client(address, verbose=False)
    begun, first, last = time.perf_counter(), None, None
    for seen in client.submit(**ask(k, steps)):
        first, last = first or time.perf_counter() - begun, seen
    took = time.perf_counter() - begun
    assert last is not None and first is not None and "**done**" in last[-1]
    image = Path(last[0]).read_bytes()
    client.close()
    return first, took, image


def first_image(address: str) -> float:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.locator("#run").wait_for()
        begun = time.perf_counter()
        page.click("#run")
        page.wait_for_selector("#image img")
        took = time.perf_counter() - begun
        browser.close()
    return took


def picture(address: str) -> None:
    """docs/images/app.png: the first tab at the end of a run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
        page.set_default_timeout(900_000)
        page.goto(address)
        page.locator("#run").wait_for()
        page.locator("textarea").first.fill("a large yellow star on a blue background")
        page.click("#run")
        page.wait_for_function("/done/.test(document.querySelector('#status').innerText)")
        page.wait_for_timeout(1000)
        page.screenshot(path=ROOT / "docs" / "images" / "app.png", full_page=True)
        browser.close()


def memory(server: subprocess.Popen[str]) -> float:
    return psutil.Process(server.pid).memory_info().rss / 2**20


class Hostile:
    """Requests that mean harm, one after the other, from a seeded die."""

    def __init__(self, address: str) -> None:
        self.url, self.die = f"{address}/gradio_api", random.Random(0)
        about = httpx.get(f"{self.url}/info", timeout=60).json()
        self.optimize = about["named_endpoints"]["/optimize"]["parameters"]
        self.kinds = [self.upload, self.fields, self.path, self.image, self.shape]

    def send(self, k: int) -> str:
        """What is wrong with the answer; "" if it is a clear refusal."""
        answer = self.kinds[k % len(self.kinds)](k)
        if "Traceback" in answer or "root:" in answer or 'File "/' in answer:
            return f"request {k} was told {answer[:200]!r}"
        refused = "error" in answer.lower() or answer.startswith("4")
        return "" if refused else f"request {k} was answered {answer[:200]!r}"

    def upload(self, k: int) -> str:
        size = self.die.choice([9, 12, 20]) * 2**20
        files = {"files": (f"{k}.png", b"x" * size)}
        sent = httpx.post(f"{self.url}/upload", files=files, timeout=60)
        return str(sent.status_code)

    def path(self, k: int) -> str:
        where = self.die.choice(
            ["/etc/passwd", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/proc/self/environ"]
        )
        return str(httpx.get(f"{self.url}/file={where}", timeout=60).status_code)

    def fields(self, k: int) -> str:
        """One field of the form, or two, that are not what they should be."""
        values = [json.dumps(each["parameter_default"]) for each in self.optimize]
        words = {"prompt": '"a red heart"', "negative": '""', "steps": "5", "seeds": '"0"'}
        for at, each in enumerate(self.optimize):
            values[at] = words.get(each["parameter_name"], values[at])
        bad = self.die.choice(["NaN", "Infinity", "-1e308", '"x"', "[]", "{}", '"\\u0000"'])
        known = [at for at, each in enumerate(self.optimize) if each["parameter_name"] in STRICT]
        values[self.die.choice(known)] = bad
        values[self.die.randrange(len(STRICT), len(values))] = bad
        return self.call("optimize", f'{{"data": [{", ".join(values)}]}}')

    def shape(self, k: int) -> str:
        body = self.die.choice(['{"data": []}', '{"data": 3}', "{", "[]", '{"data": [1, 2]}', ""])
        return self.call(self.die.choice(["optimize", "edit", "scores", "info"]), body)

    def image(self, k: int) -> str:
        from PIL import Image

        buffer, kind = io.BytesIO(), k // len(self.kinds) % 6
        if kind == 0:
            Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
        elif kind == 1:
            Image.new("RGB", (64, 64)).save(buffer, "GIF")
        else:
            noise = Image.effect_noise((64, 64), 50)
            noise.convert("RGBA" if kind == 2 else "RGB").save(buffer, "PNG")
        data = buffer.getvalue()
        data = data[: len(data) // 3] if kind == 3 else b"no image" if kind == 4 else data
        sent = httpx.post(f"{self.url}/upload", files={"files": ("a.png", data)}, timeout=60)
        path = "/etc/passwd" if kind == 5 else sent.json()[0]
        file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        words = ["a red heart", "a blue heart", "", "prompt_swap", 0.8, 2, 3, 0, False, "shapes"]
        return self.call("edit", json.dumps({"data": [file, False, None, *words]}))

    def call(self, name: str, body: str) -> str:
        headers = {"content-type": "application/json"}
        sent = httpx.post(f"{self.url}/call/{name}", content=body, headers=headers, timeout=60)
        if sent.status_code >= 400:
            return f"{sent.status_code} {sent.text}"
        event = sent.json()["event_id"]
        return httpx.get(f"{self.url}/call/{name}/{event}", timeout=120).text


def crowd(
    server: subprocess.Popen[str], address: str, count: int, steps: int, rest: float
) -> tuple[dict[str, object], int]:
    """Clients one after the other, then all at once; what was measured, and how many got mixed."""
    alone = [one_client(address, k, steps)[2] for k in range(count)]
    before = memory(server)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        together = list(pool.map(lambda k: one_client(address, k, steps), range(count)))
    time.sleep(rest)
    after = memory(server)
    mixed = sum(image != alone[k] for k, (_, _, image) in enumerate(together))
    waits = sorted(first for first, _, _ in together)
    p95 = waits[max(0, round(0.95 * len(waits)) - 1)]
    facts = {
        f"{count} clients at once, {steps} steps each: finished": len(together),
        "of them with another image than alone": mixed,
        "wait for the first image: median, p95": f"{statistics.median(waits):.1f} s, {p95:.1f} s",
        "all of them": f"{max(took for _, took, _ in together):.1f} s",
        "memory before and after": f"{before:.0f}, {after:.0f} MiB ({after / before - 1:+.1%})",
    }
    return facts, mixed


def harm(address: str, count: int, steps: int) -> tuple[dict[str, object], list[str]]:
    """Hostile requests one after the other; what was measured, and answers that are no refusal."""
    _, _, before = one_client(address, 0, steps)
    hostile = Hostile(address)
    wrong = [said for said in map(hostile.send, range(count)) if said]
    _, _, still = one_client(address, 0, steps)
    facts = {
        f"{count} hostile requests: without a clear refusal": len(wrong),
        "the app goes on after them": "yes" if still == before else "NO",
    }
    return facts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--hostile", type=int, default=500)
    parser.add_argument("--rest", type=float, default=60, help="seconds until memory is read")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--picture", action="store_true", help="draw docs/images/app.png alone")
    parser.add_argument("--dry", action="store_true", help="write no report")
    options = parser.parse_args()
    server, address = start()
    facts: dict[str, object] = {}
    mixed, wrong = 0, []
    try:
        if options.picture:
            picture(address)
            return 0
        if "first" in options.parts:
            facts["click to the first image, chromium"] = f"{first_image(address):.2f} s"
        if "clients" in options.parts:
            found, mixed = crowd(server, address, options.clients, options.steps, options.rest)
            facts |= found
        if "hostile" in options.parts:
            found, wrong = harm(address, options.hostile, options.steps)
            facts |= found
    finally:
        server.terminate()
        server.wait(20)
    rows = [{"what": name, "measured": str(value)} for name, value in facts.items()]
    if options.dry:
        print(*rows, sep="\n")
    else:
        write_report("app", "The app", {"Under load": rows}, machine())
    print(*wrong[:20], sep="\n")
    return int(bool(mixed or wrong))


if __name__ == "__main__":
    raise SystemExit(main())
