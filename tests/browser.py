"""A page in headless Chromium, driven over the DevTools protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from contextlib import closing, contextmanager

import websocket
from programs import PATIENCE_S, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab.  Times in it are its own: milliseconds since it was opened."""

    def __init__(self, url):
        self._socket = websocket.create_connection(
            url, timeout=PATIENCE_S, suppress_origin=True, http_no_proxy=["127.0.0.1"]
        )
        self._numbers = itertools.count(1)
        self.call("Page.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def close(self):
        self._socket.close()

    def call(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            if answer.get("method") == "Page.javascriptDialogOpening":  # "leave this page?"
                accept = {"id": 0, "method": "Page.handleJavaScriptDialog"}
                self._socket.send(json.dumps({**accept, "params": {"accept": True}}))
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script):
        """The value of an expression in the page, awaited if it is a promise."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def click(self, selector):
        x, y = self.run(
            f"(() => {{const at = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [at.x + at.width / 2, at.y + at.height / 2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            given = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", **given)

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(folder, *, width=1280, height=900):
    """A page of a browser that ends with it."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--remote-debugging-port=0"]
    command += [f"--user-data-dir={folder / 'chromium'}", f"--window-size={width},{height}"]
    # Chromium keeps a socket there, whose path may not be long.
    short = tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True)
    environment = os.environ | {"TMPDIR": short.name}
    with (folder / "chromium.txt").open("w") as said:
        started = subprocess.Popen(
            [*command, "about:blank"], stdout=said, stderr=said, env=environment
        )
    try:
        file = folder / "chromium" / "DevToolsActivePort"
        until(lambda: file.exists() and len(file.read_text().split()) == 2, by=started)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        where = f"http://127.0.0.1:{file.read_text().split()[0]}/json/list"
        with opener.open(where, timeout=PATIENCE_S) as reply:
            [tab] = [each for each in json.load(reply) if each["type"] == "page"]
        with closing(Page(tab["webSocketDebuggerUrl"])) as page:
            yield page
    finally:
        started.kill()
        started.wait()
        short.cleanup()
        started.wait()
