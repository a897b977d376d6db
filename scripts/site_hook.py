"""A hook of mkdocs: what pages link to outside of docs/ becomes a page of the site too.

So links that work in the repository work there, and a broken one breaks `mkdocs build --strict`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)(?=[)#])")
SHOWN = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".md": "markdown", ".sh": "sh", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """A page for every file and folder that a page of docs/ links to, and for what such a folder holds."""
    wanted = [
        target
        for page in files.documentation_pages()
        for link in LINK.findall(page.content_string)
        if (target := _outside(page.src_uri, link)) is not None and target.exists()
    ]
    while wanted:
        target = wanted.pop()
        if files.get_file_from_path(_address(target)) is not None:
            continue
        inner = [path for path in sorted(target.iterdir()) if _readable(path)] if target.is_dir() else []
        wanted += inner
        files.append(
            File.generated(
                config, _address(target), content=_content(target, inner), inclusion=InclusionLevel.NOT_IN_NAV
            )
        )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave docs/ lead to those pages."""
    here = page.file.src_uri

    def rewritten(found: re.Match[str]) -> str:
        target = _outside(here, found[1])
        if target is None:
            return found[1]
        return posixpath.relpath(_address(target), posixpath.dirname(here) or ".")

    return LINK.sub(rewritten, markdown)


def _outside(page: str, link: str) -> Path | None:
    """What a link of a page means, where that is not in docs/."""
    if page.startswith("source/"):
        return None
    target = (ROOT / "docs" / page).parent / link
    resolved = Path(posixpath.normpath(target))
    return None if resolved.is_relative_to(ROOT / "docs") else resolved


def _address(target: Path) -> str:
    return f"source/{target.relative_to(ROOT).as_posix()}.md"


def _readable(path: Path) -> bool:
    return path.suffix in SHOWN or (path.is_dir() and path.name not in ("__pycache__", "build"))


def _content(target: Path, inner: list[Path]) -> str:
    title = f"# `{target.relative_to(ROOT).as_posix()}`\n\n"
    if target.is_dir():
        here = posixpath.dirname(_address(target))
        return (
            title + "\n".join(f"* [{p.name}]({posixpath.relpath(_address(p), here)})" for p in inner) + "\n"
        )
    text = target.read_text(encoding="utf-8")
    return f"{title}``````{SHOWN.get(target.suffix, 'text')}\n{text}\n``````\n"
