"""Other pages quote the evidence: what they say of it is written here, not by hand.

A page has two kinds of quotes. Between two comments stand a claim's tables, or only
that of its statements,

    <!-- evidence: speed-of-1cycle -->
    <!-- end of evidence -->
    <!-- evidence: speed-of-1cycle, statements -->
    <!-- end of evidence -->

and the outcome of a claim is the text in emphasis that follows a link to it:

    [1cycle](evidence.md#speed-of-1cycle): *cannot be told*
"""

import re

BLOCK = re.compile(
    r"(<!-- evidence: ([\w-]+)(, statements)? -->\n).*?(<!-- end of evidence -->)",
    re.DOTALL,
)
OUTCOME = re.compile(r"(\]\(([^)\s]*)evidence\.md#([\w-]+)\): )\*[^*]*\*")


def pages(root):
    """Those that may quote."""
    docs = root / "docs"
    return [
        root / "README.md",
        docs / "index.md",
        docs / "which_schedule.md",
        *sorted((docs / "guides").glob("*.md")),
    ]


def quote(text, block, outcome):
    """The text of a page with its quotes as they are to be now.

    Args:
        text: Of the page.
        block: A function from a claim's name, and whether with its tables, to lines.
        outcome: A function from a claim's name to its outcome.
    """

    def with_block(match):
        start, name, statements, end = match.groups()
        lines = "\n".join(block(name, statements is None))
        return f"{start}\n{lines}\n\n{end}"

    def with_outcome(match):
        return f"{match.group(1)}*{outcome(match.group(3))}*"

    return OUTCOME.sub(with_outcome, BLOCK.sub(with_block, text))


def without_quotes(text):
    """What a page says of its own accord."""
    return OUTCOME.sub("", BLOCK.sub("", text))
