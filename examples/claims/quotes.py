"""Other pages quote the evidence: what they say of it is written here, not by hand.

A page has two kinds of quotes. Between two comments stand a claim's tables, or only
that of its statements,

    <!-- evidence: speed-of-1cycle -->
    <!-- end of evidence -->
    <!-- evidence: speed-of-1cycle, statements -->
    <!-- end of evidence -->

and the outcome of a claim is the text in emphasis that follows a link to it:

    [1cycle](evidence.md#speed-of-1cycle): *cannot be told (digits)*

or that of its statements that begin with the words in quotes,

    [1cycle](evidence.md#speed-of-1cycle), "cycling the momentum": *no (digits)*

A link to a claim that has not been run leads to the page, and to the claim as soon as
it has been: its text is the title,

    [Speed of 1cycle](evidence.md): *not run*

Figures in `evidence/` are those of the data that are quoted.
"""

import re

BLOCK = re.compile(
    r"(<!-- evidence: ([\w-]+)(, statements)? -->\n).*?(<!-- end of evidence -->)",
    re.DOTALL,
)
OUTCOME = re.compile(r'(\]\([^)\s]*evidence\.md#([\w-]+)\)(?:, "([^"]*)")?: )\*[^*]*\*')
NOT_RUN = re.compile(r"\[([^\]]+)\]\(([^)\s]*)evidence\.md\): \*not run\*")
FIGURE = re.compile(r"(\]\([^)\s]*evidence/)[\w-]+(/(\w+)\.png\))")


def pages(root):
    """Those that may quote."""
    docs = root / "docs"
    return [
        root / "README.md",
        docs / "index.md",
        docs / "which_schedule.md",
        docs / "sources.md",
        *sorted((docs / "guides").glob("*.md")),
    ]


def quote(text, block, outcome, folders, names):
    """The text of a page with its quotes as they are to be now.

    Args:
        text: Of the page.
        block: A function from a claim's name, and whether with its tables, to lines.
        outcome: A function from a claim's name and the beginning of statements, which
            is empty where the whole claim is meant, to their outcome.
        folders: The data that are quoted, by the names of figures.
        names: Those of the claims that have been run, by title.
    """

    def with_block(match):
        start, name, statements, end = match.groups()
        lines = "\n".join(block(name, statements is None))
        return f"{start}\n{lines}\n\n{end}"

    def with_outcome(match):
        start, name, beginning = match.groups()
        return f"{start}*{outcome(name, beginning or '')}*"

    def with_figure(match):
        start, end, name = match.groups()
        return f"{start}{folders[name]}{end}" if name in folders else match.group()

    def with_name(match):
        title, path = match.groups()
        if title not in names:
            return match.group()
        return f"[{title}]({path}evidence.md#{names[title]}): *not run*"

    text = NOT_RUN.sub(with_name, text)
    text = OUTCOME.sub(with_outcome, BLOCK.sub(with_block, text))
    return FIGURE.sub(with_figure, text)
