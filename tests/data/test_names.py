"""Class names and no picture: what is understood, and what is refused."""

import pytest

from counterpoise import tables
from counterpoise.data.names import Names
from counterpoise.data.sources import open_source
from counterpoise.types import Refusal, describe, load


def test_names_come_from_a_file_or_from_the_command(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("\ufeffoak tree\n\n# these are rare\nrose  # the flower\nсобака\n", "utf-8")
    assert open_source(str(file)) == Names(("oak tree", "rose", "собака"))
    assert open_source("names: cat ,dog") == Names(("cat", "dog"))


def test_there_is_no_row_and_the_order_stays():
    source = Names(("zebra", "ant"))
    listing = source.listing()
    assert len(listing) == 0
    assert tables.meta(listing)["classes"] == ["zebra", "ant"]
    assert list(source.read(listing)) == []
    assert load(describe(source)) == source
    assert source.state() != Names(("ant", "zebra")).state()


def test_names_that_are_none_are_refused(tmp_path):
    with pytest.raises(Refusal, match="'cat' is there 2 times"):
        open_source("names:cat,dog,cat")
    with pytest.raises(Refusal, match=r"at least two class names.* has 1"):
        open_source("names:cat,,")
    file = tmp_path / "classes.txt"
    file.write_bytes(b"\xff\xfe\x00caf\xe9")
    with pytest.raises(Refusal, match="no UTF-8 text"):
        open_source(str(file))
