"""Every code block of docs/ runs: see `tests/pages.py`. In a file of its own, so that another process may run the README's meanwhile."""

import pytest

from tests.pages import PAGES, blocks, run_blocks


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md" and blocks(page)], ids=lambda page: page.name)
def test_every_block_runs(page, request):
    run_blocks(page, request)
