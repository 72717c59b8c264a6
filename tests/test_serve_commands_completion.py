"""TAB in a real bash: the script that `completion` prints, asked as readline asks it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve import command_line
from serve.settings import settings

ROOT = Path(__file__).parents[1]
TAB = r"""
source ./script
line=$1
COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9
read -ra COMP_WORDS <<< "${line//=/ = }"
[[ $line == *" " ]] && COMP_WORDS+=("")
[[ $line == *"=" ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
words=$(complete -p towers)
[[ $words =~ -F\ ([^ ]+) ]] && "${BASH_REMATCH[1]}" towers "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """What bash would offer for a line that ends at the cursor."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "bin").mkdir()
    program = folder / "bin" / "towers"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom serve.__main__ import main\nsys.exit(main())\n")
    program.chmod(0o755)
    for version in ("v1", "v2"):
        (folder / "releases" / version).mkdir(parents=True)
        (folder / "releases" / version / "manifest.json").write_text("{}")
    (folder / "releases" / "current").symlink_to("v2")
    (folder / "state").mkdir()
    (folder / "state" / "keys.json").write_text('{"keys": [{"name": "shop"}, {"name": "app"}]}')
    env = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    with (folder / "script").open("w") as script:
        subprocess.run([program, "completion", "bash"], stdout=script, env=env, timeout=60, check=True)

    def offered(line: str) -> set[str]:
        done = subprocess.run(
            ["bash", "-c", TAB, "tab", line], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert not done.stderr, done.stderr
        return {word.strip() for word in done.stdout.split("\n")} - {""}

    return offered


def test_commands_actions_flags_and_choices_are_completed(tab):
    assert tab("towers rel") == {"release"}
    assert tab("towers re") == {"release", "recommend", "refresh", "retrain"}
    assert tab("towers release ro") == {"rollback"}
    assert tab("towers recommend --us") == {"--user"}
    assert tab("towers recommend --diversity d") == {"dpp"}


def test_releases_and_keys_are_completed_by_name(tab):
    assert tab("towers release promote v") == {"v1", "v2"}
    assert tab("towers release challenge --version v") == {"v1", "v2"}
    assert tab("towers key revoke ") >= {"shop", "app"}


def test_keys_of_the_configuration_and_their_values_are_completed(tab):
    assert tab("towers up triton.") == {"triton.url=", "triton.timeout_ms="}
    assert tab("towers up time=l") & {"log-end", "time=log-end"}
    assert "gate.tolerance=" in tab("towers retrain gate.")
    assert tab("towers refresh timeout") == {"timeout_minutes="}


def test_what_is_offered_is_what_is_taken():
    """Every key that is offered is a key of the settings, and every value that is offered is one it may have."""
    offered = command_line.keys("serve")
    assert {"port", "triton.url", "access.reading", "arms.salt"} <= set(offered) and not [key for key in offered if "=" in key]
    for key, values in command_line.SAID.items():
        for value in values if key in offered else ():
            settings([f"{key}={value}"])
