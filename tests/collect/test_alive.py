"""JupyterLab in a browser, in real time: the text at every poll, Stop, a reload and a restart."""

import papermill.iorw
import papermill.parameterize
import pytest
from browser import CHROMIUM, browser
from conftest import CHAOS, JUPYTER_FOLDERS, read_events
from programs import ask, lab, leftovers, sandbox, until

pytestmark = [
    pytest.mark.usefixtures("_programs_end_with_the_test"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]

SPEED = 1 if CHAOS else 5  # of the market: the clean-up takes 35 s of its time
STOP_S = 1 if CHAOS else 5  # the machine of a quick test may be busy
WHAT = {"n": 2, "instance_type": "t3.nano", "region": "sa-east-1", "poll_s": 3.0 * SPEED / 5}

# Each line that is shown, with the page's milliseconds.
WATCH = """
window.lines = [];
new MutationObserver(() => {
  for (const each of document.querySelectorAll(".jp-OutputArea-output")) {
    const line = each.innerText.trim();
    if (!window.lines.some(([, seen]) => seen === line))
      window.lines.push([performance.now(), line]);
  }
}).observe(document.body, {subtree: true, childList: true, characterData: true}); 0
"""
BOOK = "[...window.jupyterapp?.shell.widgets('main') ?? []][0]"
RESTART = ".jp-Dialog .jp-mod-accept"
READY = f"{BOOK}?.sessionContext?.session?.kernel?.status === 'idle'"
FOCUS = f"void window.jupyterapp.shell.activateById({BOOK}.id)"
RUN = f"""(async () => {{{{
  const book = {BOOK}.content;
  book.activeCellIndex = book.widgets.findLastIndex(
    each => each.model.sharedModel.source.includes("{{}}"));
  await window.jupyterapp.commands.execute("notebook:run-cell");
  const shown = book.activeCell.node;
  return [shown.innerText, shown.querySelectorAll("img").length];
}}}})()"""
PARAMETERS, REDRAW = RUN.format("# Parameters"), RUN.format("show_newest")


@pytest.fixture
def market():
    with sandbox("--speed", str(SPEED)) as url:
        yield url


@pytest.fixture
def page(repository, tmp_path, market, monkeypatch):
    """The notebook in JupyterLab, with a kernel that waits."""
    for name in JUPYTER_FOLDERS:
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    book = papermill.iorw.load_notebook_node(str(repository / "notebooks/02_collect.ipynb"))
    given = {**WHAT, "endpoint": market, "results": str(tmp_path)}
    book = papermill.parameterize.parameterize_notebook(book, given)
    papermill.iorw.write_ipynb(book, str(tmp_path / "02_collect.ipynb"))
    options = ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    with lab(tmp_path, *options) as (_, server), browser(tmp_path) as page:
        page.server = server
        where = f"{server['url']}lab/tree/02_collect.ipynb?token={server['token']}"
        page.call("Page.navigate", url=where)
        until_idle(page)
        yield page


def until_idle(page):
    """Wait for the kernel, and watch what is shown from now on."""
    until(lambda: page.run(READY))
    page.run(FOCUS)
    page.run(WATCH)


def run_all(page, market):
    """Run all cells, and return in the middle of the batch."""
    page.run("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    until(lambda: len(leftovers(market)["instances"]) == WHAT["n"])


def lines(page):
    return [(at, line) for at, line in page.run("window.lines") if line]


def shown(page, words):
    return any(words in line for _, line in lines(page))


def newest(tmp_path):
    return max((tmp_path / "launches").glob("*.jsonl"))


def polls(tmp_path):
    return sum(each["event"] == "poll" for each in read_events(newest(tmp_path))[0])


def keep(page, tmp_path, name, where=".jp-OutputArea-output progress"):
    """A picture, for people."""
    page.run(f"document.querySelector('{where}')?.scrollIntoView({{block: 'start'}})")
    page.picture(tmp_path / f"{name}.png")


def redrawn(page, words):
    """Run the cell that needs only the log, until it says so; return its number of figures."""
    until(lambda: words in page.run(REDRAW)[0])
    text, figures = page.run(REDRAW)
    assert words in text
    return figures


def test_the_page_shows_every_poll_and_answers_stop_and_finds_the_batch_again(
    page, market, tmp_path
):
    run_all(page, market)
    until(lambda: polls(tmp_path) >= 8)
    recorded = polls(tmp_path)
    until(lambda: sum("watched for at most" in line for _, line in lines(page)) >= recorded - 1)
    keep(page, tmp_path, "1-running")

    # The browser's own clock: from the click to the line.
    asked_ms = page.run("performance.now()")
    page.click('[data-command="notebook:interrupt-kernel"]')
    until(lambda: shown(page, "stopping: cancelling 2 requests, terminating 2 instances, about"))
    [answered_ms, *_] = [at for at, line in lines(page) if "stopping: cancelling" in line]
    keep(page, tmp_path, "2-stopping")
    assert answered_ms - asked_ms < 1000 * STOP_S, "Stop is answered"
    until(lambda: shown(page, "(confirmed)"))
    until(
        lambda: shown(
            page, "stopped by Ctrl-C or the stop button (SIGINT) in round 1 of 1: what was seen"
        )
    )
    keep(page, tmp_path, "3-stopped")
    counted = [line for _, line in lines(page) if "SIMULATED" in line and "stopping:" in line]
    assert len(counted) >= 4, "it counts down"
    assert "Traceback" not in page.run("document.body.innerText")

    run_all(page, market)
    [kernel] = ask(page.server, "api/kernels")
    page.call("Page.reload")
    ask(page.server, f"api/kernels/{kernel['id']}/interrupt", "POST")
    until_idle(page)
    assert redrawn(page, "was stopped by Ctrl-C or the stop button (SIGINT)") == 1
    keep(page, tmp_path, "4-reloaded", ".jp-mod-active")

    run_all(page, market)
    page.run("void window.jupyterapp.commands.execute('notebook:restart-kernel')")
    until(lambda: page.run(f"!!document.querySelector('{RESTART}')"))
    page.click(RESTART)
    until_idle(page)
    page.run(PARAMETERS)  # its results are not in the default folder
    figures = redrawn(page, "was closed by the guard")
    keep(page, tmp_path, "5-restarted", ".jp-mod-active")
    assert figures == 1
