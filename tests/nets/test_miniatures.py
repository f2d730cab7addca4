from pathlib import Path

import pytest

from counterpoise.nets import miniatures
from counterpoise.types import Refusal


def test_they_are_looked_for_in_the_package_then_in_its_repository(tmp_path, monkeypatch):
    package = tmp_path / "counterpoise"
    monkeypatch.setattr(miniatures, "PACKAGE", package)
    with pytest.raises(Refusal, match=r"miniature clip model.*train_miniatures\.py"):
        miniatures.folder("clip")
    for root in (tmp_path, package):
        (root / "assets" / "miniatures" / "clip").mkdir(parents=True)
        assert miniatures.folder("clip") == root / "assets" / "miniatures" / "clip"
    with pytest.raises(Refusal, match="miniature language model"):
        miniatures.folder("language")


def test_the_wheel_takes_them_along():
    import tomllib

    root = Path(__file__).parents[2]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    ((source, target),) = wheel["force-include"].items()
    assert (root / source).is_dir()
    assert Path(target).relative_to("counterpoise") == Path("assets", "miniatures")
    assert root / "counterpoise" == miniatures.PACKAGE
