"""Print a script that completes the names of commands, options and files in bash.

Add `source <(theflash completion)` to ~/.bashrc. zsh can use it too, after
`autoload -U bashcompinit && bashcompinit`.
"""

import argparse

from pyspark_theflash.cli.main import COMMANDS, command

_SCRIPT = """\
_theflash() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" = 1 ]; then
        words="{commands}"
    elif [[ "$word" == -* ]]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _theflash theflash"""


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """`completion` has no arguments."""


def run(_arguments: argparse.Namespace) -> int:
    """Print the script."""
    cases = "\n".join(f'            {name}) words="{_options(name)}" ;;' for name in COMMANDS)
    print(_SCRIPT.format(commands=" ".join(COMMANDS), cases=cases))
    return 0


def _options(name: str) -> str:
    parser = argparse.ArgumentParser()
    command(name).add_arguments(parser)
    return " ".join(sorted(word for word in parser._option_string_actions if word[:2] == "--"))
