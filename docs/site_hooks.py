"""What the site does beyond MkDocs: guides, links to the repository, code to paste."""

import html
import re
from pathlib import Path

import sessions
from mkdocs.structure.files import File
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

VERSION = re.compile(r'^__version__ = "(.+)"', re.MULTILINE)

# A link to a file outside of docs, such as `](../tests/test_laws.py)`.
LINK = re.compile(r"(\]\((?:\.\./)*)\.\./((?:tests|examples|benchmarks)/[^)#]+)")

# A block of code that is highlighted; a session in Python has prompts (`gp`).
BLOCK = re.compile(
    r'(<div class="highlight"><pre><span></span><code>)(.*?)(</code></pre></div>)',
    re.DOTALL,
)

TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
# Code in a table, or the name of a file; and where it may be broken.
NAME = re.compile(r'(?<=<code>)[^<]+(?=</code>)|(?<=">)\w+\.py(?=</a>)')
BREAK = re.compile(r"""([(\[{=/]|\w_|[a-z]\.(?!py))(?=[\w&"'(\[{])""")

# An interval such as `[0.97, 1.02]` in a table.
INTERVAL = re.compile(r"(?<=\[)(-?[\d.]+), (?=-?[\d.]+\])")
# A picture that is no link, as thumbnails are.
FIGURE = re.compile(r'(?<!">)<img alt="[^"]*" src="([^"]+\.png)"[^>]*>')


def on_config(config):
    """Reads the version, and lists the guides: as in mkdocs.yml, then the others."""
    package = Path(config.config_file_path).parent / "keras_lrs" / "__init__.py"
    config.extra["release"] = VERSION.search(package.read_text("utf-8"))[1]
    folder = Path(config.docs_dir)
    written = [f"guides/{path.name}" for path in sorted(folder.glob("guides/*.md"))]
    for section in config.nav:
        if "Guides" in section:
            listed = [page for page in section["Guides"] if page in written]
            others = [page for page in written if page not in listed]
            section["Guides"] = listed + others


def on_files(files, config):
    """Puts a copy of every file of the repository that a page links to into the site.

    GitHub shows the file itself; the site has it in the folder `repository`.
    """
    root = Path(config.config_file_path).parent
    pages = [page.content_string for page in files.documentation_pages()]
    linked = {path for page in pages for _, path in LINK.findall(page)}
    for path in sorted(linked):
        uri, source = f"repository/{path}", str(root / path)
        files.append(File.generated(config, uri, abs_src_path=source))
    return files


def on_page_markdown(markdown, **arguments):
    """Lets links to the repository point to these copies."""
    return LINK.sub(r"\1repository/\2", markdown)


def on_page_content(content, page, **arguments):
    """Shows doctests without prompts, so that they can be pasted, and narrow tables.

    On a phone, figures are too small to read. A link opens each at its full size.
    """
    if page.file.src_uri == "evidence.md":
        _drop_data_sets(page.toc)
    content = FIGURE.sub(r'<a class="figure" href="\1">\g<0></a>', content)
    return TABLE.sub(_with_breaks, BLOCK.sub(_without_prompts, content))


def _drop_data_sets(headings):
    """Leaves out what each claim repeats, such as "On handwritten digits"."""
    for heading in headings:
        heading.children = [each for each in heading.children if each.level < 4]
        _drop_data_sets(heading.children)


def _with_breaks(match):
    """A table whose names may be broken, and whose intervals stay whole."""
    table = INTERVAL.sub(r"\1,&nbsp;", match[0])
    return NAME.sub(lambda name: BREAK.sub(r"\1<wbr>", name[0]), table)


def _without_prompts(match):
    before, code, after = match.groups()
    if '<span class="gp">' not in code:
        return match[0]
    program = sessions.program(html.unescape(re.sub(r"<[^>]+>", "", code)))
    return (
        before + highlight(program, PythonLexer(), HtmlFormatter(nowrap=True)) + after
    )
