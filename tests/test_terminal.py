"""What commands print: folded on a narrow terminal, of any length in a pipe, and never cut off."""

import subprocess
import sys

import pytest
from rich.table import Table

from genpipe import terminal
from genpipe.terminal import Unbroken

TEXT = "a text that is longer than the thirty columns which there are"
ADDRESS = "http://127.0.0.1:4200/runs/flow-run/dc0caf7a-f690-4147-813f-1b6f25fac0de"


def test_a_text_goes_on_below_where_it_began_and_an_address_is_not_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    terminal.show(terminal.beside("Last run", TEXT, Unbroken(ADDRESS)), terminal.beside("Page", Unbroken(ADDRESS)))
    assert capsys.readouterr().out.splitlines() == [
        "Last run    a text that is",
        "            longer than the",
        "            thirty columns",
        "            which there are",
        f"            {ADDRESS}",
        f"Page        {ADDRESS}",
    ]


def test_a_word_that_is_wider_than_its_column_is_folded_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    terminal.show(terminal.beside("Cause", ADDRESS))
    assert "".join(capsys.readouterr().out.split()) == f"Cause{ADDRESS}"


def test_in_a_pipe_a_line_is_as_long_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table.grid(padding=(0, 2))
    table.add_row("short", TEXT * 10)
    table.add_row("long", "little")
    terminal.show(table)
    assert capsys.readouterr().out == f"short  {TEXT * 10}\nlong   little\n"


def test_a_reader_who_has_seen_enough_ends_it_without_a_word() -> None:
    script = "from genpipe import terminal; terminal.show('x' * 2_000_000)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stderr
        assert child.stdout.read(1) == "x"
        child.stdout.close()
        assert child.stderr.read() == ""
