"""The widget in JupyterLab, in a browser without a window: painted with a mouse, with keys, and restarted.

`pip install '.[widget]' jupyterlab playwright`, and Chromium: `playwright install chromium`, or Debian's.
APROARRAY_SCREENSHOTS names a folder for pictures of what is seen.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import aproarray

pytest.importorskip("anywidget", reason="anywidget is not installed: pip install '.[widget]'")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

PATIENCE = 60_000  # milliseconds
MAKE = """
import numpy as np, aproarray
shape = {shape}
image = np.full((*shape, 3), 60, np.uint8)
image[shape[0] // 5 : 3 * shape[0] // 4, shape[1] // 3 : 3 * shape[1] // 4] = 180, 120, 60
image += np.random.default_rng(0).integers(0, 9, image.shape, np.uint8)
painter = aproarray.widget(image, ["box", "ground"])
painter.brush_size = 9 * shape[0] // 240
painter
"""
READ = """
same = np.array_equal(
    painter.labels,
    aproarray.propagate_labels(image, painter.strokes) if painter.strokes.any() else painter.strokes,
)
print("read", np.bincount(painter.strokes.ravel(), minlength=3)[1:], len(np.unique(painter.labels)), same)
"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        options = {"args": ["--no-sandbox"]}
        if not Path(driver.chromium.executable_path).exists():
            found = shutil.which("chromium") or shutil.which("google-chrome")
            if found is None:
                pytest.skip("Chromium is not installed: playwright install chromium")
            options["executable_path"] = found
        browser = driver.chromium.launch(**options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    """Start JupyterLab in a folder of its own, and return its address and the folder."""
    folder = tmp_path_factory.mktemp("notebooks")
    own = {
        name: str(tmp_path_factory.mktemp("jupyter"))
        for name in (
            "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR",
            "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
        )
    }  # fmt: skip
    settings = Path(own["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab", "apputils-extension")
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    root = str(Path(aproarray.__file__).parents[1])
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += [f"--notebook-dir={folder}", "--IdentityProvider.token=", "--ServerApp.port_retries=0"]
    command += ["--LabApp.expose_app_in_browser=True"]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env=os.environ | own | {"PYTHONPATH": root}
        )
    try:
        address = None
        for _ in range(600):
            found = re.search(r"http://(?:localhost|127\.0\.0\.1):\d+", log.read_text(errors="replace"))
            if process.poll() is not None:
                break
            if found and ":0" not in found[0]:
                address = found[0]
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api"):
                    break
            time.sleep(0.1)
        assert address is not None, log.read_text(errors="replace")
        yield address, folder
    finally:
        process.terminate()
        process.wait(30)


class Notebook:
    """A notebook with a cell that makes the widget and one that reads it, open in a page."""

    def __init__(self, page, address, folder, name, shape):
        cells = [
            {
                "cell_type": "code",
                "id": f"cell{at}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": source.strip(),
            }
            for at, source in enumerate((MAKE.format(shape=shape), READ))
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook))
        self.page = page
        self.shape = shape
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
        page.locator(".jp-Notebook .jp-CodeCell").nth(1).wait_for()
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel")
        self.canvas = page.locator(".aproarray-canvas")
        self.status = page.locator(".aproarray-status")

    def command(self, name):
        self.page.evaluate(f"void window.jupyterapp.commands.execute('{name}')")

    def make(self):
        """Run the cell that makes the widget."""
        self.page.locator(".jp-CodeCell .cm-content").first.click()
        self.page.keyboard.press("Shift+Enter")
        self.canvas.wait_for()

    def read(self):
        """Run the cell that reads the widget: pixels of both classes' strokes, labels, if all is right."""
        cell = self.page.locator(".jp-CodeCell").nth(1)
        cell.locator(".cm-content").click()
        self.command("notebook:clear-cell-output")
        self.page.keyboard.press("Control+Enter")
        output = cell.locator(".jp-OutputArea-output").filter(has_text="read")
        output.wait_for()
        first, second, n_labels, same = re.search(
            r"read \[\s*(\d+)\s+(\d+)\] (\d+) (\w+)", output.inner_text()
        ).groups()
        return (int(first), int(second)), int(n_labels), same == "True"

    def button(self, name):
        return self.page.locator(".aproarray").get_by_role("button", name=name, exact=True)

    def at(self, row, column):
        """Return where a place in the image, in shares of it, is on the page."""
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        scale = min(box["width"] / self.shape[1], box["height"] / self.shape[0])
        left = box["x"] + (box["width"] - scale * self.shape[1]) / 2
        top = box["y"] + (box["height"] - scale * self.shape[0]) / 2
        return left + scale * self.shape[1] * column, top + scale * self.shape[0] * row

    def drag(self, start, end):
        """Paint from one place to another."""
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=12)
        self.page.mouse.up()

    def answered(self, text):
        """Wait until the status begins with a text, and Python is done."""
        expect(self.status).to_have_text(re.compile(f"^{text}"), timeout=PATIENCE)
        expect(self.canvas).not_to_have_attribute("aria-busy", "true", timeout=PATIENCE)

    def color(self, row, column):
        """Return the color of a place in the image, as it is drawn."""
        x, y = self.at(row, column)
        box = self.canvas.bounding_box()
        return self.page.evaluate(
            """([x, y]) => {
                const canvas = document.querySelector(".aproarray-canvas");
                const ratio = window.devicePixelRatio;
                return [...canvas.getContext("2d").getImageData(x * ratio, y * ratio, 1, 1).data].slice(0, 3);
            }""",
            [x - box["x"], y - box["y"]],
        )

    def look(self, name):
        """Take a picture of the page, if a folder is named for it."""
        if folder := os.environ.get("APROARRAY_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def open_notebook(browser, server):
    """Open notebooks, and see in the end that nothing went wrong in their pages."""
    with contextlib.ExitStack() as stack:
        opened = []

        def open_one(name, shape=(240, 320), **options):
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
            stack.callback(context.close)
            opened.append(Notebook(context.new_page(), *server, name, shape))
            opened[-1].make()
            return opened[-1]

        yield open_one
        assert [error for notebook in opened for error in notebook.errors] == []


def test_two_strokes_undo_and_redo(open_notebook):
    notebook = open_notebook("mouse")
    assert notebook.read() == ((0, 0), 1, True)
    notebook.drag((0.4, 0.4), (0.6, 0.7))
    notebook.answered("box: ")
    notebook.button("ground").click()
    notebook.drag((0.1, 0.05), (0.9, 0.1))
    notebook.answered("2 classes: ")
    notebook.look("two strokes, wide")
    strokes, n_labels, same = notebook.read()
    assert strokes[0] > 300 < strokes[1]
    assert (n_labels, same) == (2, True)
    red, green, blue = notebook.color(0.3, 0.65)  # orange over brown
    assert red > green > blue
    notebook.button("Undo").click()
    notebook.answered("taken back")
    assert notebook.read() == ((strokes[0], 0), 1, True)
    notebook.button("Redo").click()
    notebook.answered("made again")
    assert notebook.read() == (strokes, 2, True)
    notebook.button("Eraser").click()
    notebook.drag((0.1, 0.05), (0.5, 0.075))
    notebook.answered("2 classes: ")
    assert 0 < notebook.read()[0][1] < strokes[1]
    notebook.page.set_viewport_size({"width": 560, "height": 800})
    notebook.canvas.scroll_into_view_if_needed()
    notebook.page.wait_for_timeout(500)
    notebook.look("two strokes, narrow")
    assert notebook.canvas.bounding_box()["width"] < 560
    notebook.button("box").click()
    notebook.drag((0.3, 0.4), (0.3, 0.6))
    notebook.answered("2 classes: ")
    assert notebook.read()[0][0] > strokes[0]


def test_the_view_zooms_and_moves_and_layers_hide(open_notebook):
    notebook = open_notebook("view")
    before = notebook.color(0.1, 0.1)
    notebook.drag((0.4, 0.4), (0.6, 0.7))
    notebook.answered("box: ")
    painted = notebook.color(0.1, 0.1)
    assert painted != before
    notebook.button("Labels").click()
    notebook.page.wait_for_timeout(100)
    assert notebook.color(0.1, 0.1) == before
    expect(notebook.button("Labels")).to_have_attribute("aria-pressed", "false")
    notebook.button("Labels").click()
    notebook.page.get_by_label("Opacity").fill("1")
    notebook.page.wait_for_timeout(100)
    assert notebook.color(0.1, 0.1) == [0xE6, 0x9F, 0]
    notebook.button("Undo").click()
    notebook.answered("taken back")
    # What lies in the middle stays there when zoomed in; what is beside it is moved there.
    middle, beside = notebook.color(0.5, 0.5), notebook.color(0.5, 0.1)
    assert middle[0] > beside[0] + 50
    for _ in range(6):
        notebook.button("Zoom in").click()
    notebook.page.wait_for_timeout(100)
    assert abs(notebook.color(0.5, 0.02)[0] - middle[0]) < 20
    notebook.button("Move").click()
    for _ in range(8):
        notebook.drag((0.5, 0.1), (0.5, 0.9))
    notebook.page.wait_for_timeout(100)
    assert abs(notebook.color(0.5, 0.6)[0] - beside[0]) < 20
    notebook.look("moved")
    notebook.button("Fit").click()
    notebook.button("Move").click()
    notebook.page.wait_for_timeout(100)
    assert notebook.color(0.5, 0.5) == middle
    assert notebook.read()[0] == (0, 0)  # moving paints nothing


def test_keys_alone(open_notebook):
    notebook = open_notebook("keys")
    press = notebook.page.keyboard.press
    notebook.button("Eraser").focus()
    for _ in range(30):  # the toolbar's buttons come before the image
        if notebook.canvas.evaluate("canvas => canvas.matches(':focus')"):
            break
        press("Tab")
    else:
        pytest.fail("the image has no focus")
    press(" ")  # from the middle, to the right
    for _ in range(6):
        press("ArrowRight")
    press(" ")
    notebook.answered("box: ")
    press("2")
    for _ in range(16):
        press("ArrowUp")
    press("]")
    press("Enter")
    notebook.answered("2 classes: ")
    notebook.look("keys")
    press("z")
    notebook.answered("taken back")
    press("Control+Shift+z")
    notebook.answered("made again")
    press("+")
    press("l")
    press("Escape")
    press("Tab")  # leaves the image
    assert not notebook.canvas.evaluate("canvas => canvas.matches(':focus')")
    expect(notebook.page.get_by_text("Keys", exact=True)).to_be_focused()
    strokes, n_labels, same = notebook.read()
    assert strokes[0] > 150
    assert strokes[1] > 60
    assert (n_labels, same) == (2, True)
    assert notebook.page.locator(".jp-CodeCell").count() == 2  # no key went to the notebook


def test_buttons_have_names_and_keys_that_are_seen(open_notebook):
    notebook = open_notebook("names")
    buttons = notebook.page.locator(".aproarray button")
    for button in buttons.all():
        assert button.inner_text().strip()
        if key := button.get_attribute("aria-keyshortcuts"):
            assert button.locator("kbd").inner_text() == key
    assert buttons.count() == 11
    for input_ in notebook.page.locator(".aproarray input").all():
        assert input_.evaluate("input => input.labels.length") == 1


def test_a_restarted_kernel(open_notebook):
    notebook = open_notebook("restart")
    notebook.drag((0.4, 0.4), (0.6, 0.7))
    notebook.answered("box: ")
    notebook.command("notebook:restart-kernel")
    notebook.page.get_by_role("button", name="Confirm Kernel Restart").click()
    expect(notebook.status).to_have_text(re.compile("run the cell again"), timeout=PATIENCE)
    notebook.look("restarted")
    for name in ("Undo", "ground", "Zoom in", "Labels"):
        if notebook.button(name).is_enabled():
            notebook.button(name).click()
    notebook.drag((0.4, 0.4), (0.6, 0.7))  # does nothing
    notebook.make()
    expect(notebook.status).to_have_text("", timeout=PATIENCE)
    notebook.drag((0.4, 0.4), (0.6, 0.7))
    notebook.answered("box: ")
    assert notebook.read()[1:] == (1, True)


def test_a_large_image(open_notebook):
    notebook = open_notebook("large", (1500, 2000))
    notebook.drag((0.4, 0.4), (0.6, 0.7))
    notebook.answered("box: ")
    for _ in range(5):
        notebook.button("Zoom in").click()
    notebook.page.wait_for_timeout(1500)  # what is seen comes in full
    notebook.page.get_by_label("in the window").check()
    notebook.button("ground").click()
    notebook.drag((0.4, 0.4), (0.42, 0.42))
    notebook.answered("2 classes: ")
    notebook.look("large")
    strokes, n_labels, same = notebook.read()
    assert 0 < strokes[1] < strokes[0]
    assert n_labels == 2
    assert not same  # outside of the window, labels stayed
