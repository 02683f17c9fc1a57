"""The script of a report's charts is put together once, and what is kept of it is believed only where it is whole."""

import pytest

from regimes.report import library as module
from regimes.report.library import Library, digest, pack


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Counts how often the script is put together; the cache is empty."""
    times = []

    def make():
        times.append(None)
        return Library(pack("draw()"), digest("draw()"))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_made", make)
    return times


def test_the_next_report_reads_what_the_last_one_kept(made, tmp_path):
    module.library.__wrapped__()
    assert module.library.__wrapped__() == Library(pack("draw()"), digest("draw()"))
    assert len(made) == 1
    assert len(list(tmp_path.glob("regimes/*"))) == 1


@pytest.mark.parametrize("rest", ["", pack("other()"), "%%%", pack("draw()")[:16], pack("draw()")[:12] + "A" * 20])
def test_what_is_torn_or_another_is_put_together_again(made, tmp_path, rest):
    module.library.__wrapped__()
    [kept] = tmp_path.glob("regimes/*")
    kept.write_text(f"{digest('draw()')}\n{rest}" if rest else "")
    assert module.library.__wrapped__().digest == digest("draw()")
    assert len(made) == 2
    assert module.library.__wrapped__()
    assert len(made) == 2


def test_where_nothing_can_be_kept_it_is_put_together(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert module.library.__wrapped__() == module.library.__wrapped__()
    assert len(made) == 2
