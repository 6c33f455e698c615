"""Doctests as programs."""

import doctest


def program(session: str) -> str:
    """The code of a doctest, to be pasted; what it prints is in comments."""
    lines: list[str] = []
    for example in doctest.DocTestParser().get_examples(session):
        source, printed = example.source.splitlines(), example.want.splitlines()
        if source[0].startswith(("def ", "class ", "@")) and lines and lines[-1]:
            lines.append("")
        lines += [*source, *(f"# {line}".rstrip() for line in printed)]
        if printed or source[-1].startswith(" "):  # Ends what is indented.
            lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"
