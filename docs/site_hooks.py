"""What the site does beyond MkDocs: the list of guides, links to the repository."""

import re
from pathlib import Path

from mkdocs.structure.files import File

# A link to a file outside of docs, such as `](../tests/test_laws.py)`.
LINK = re.compile(r"(\]\((?:\.\./)*)\.\./((?:tests|examples|benchmarks)/[^)#]+)")


def on_config(config):
    """Lists the guides that there are: in the order of mkdocs.yml, then the others."""
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
