"""Build the QGIS plugin of qgis/hrrsi as a zip, the same bytes each time: `make plugin`.

Version and addresses in its metadata are those of pyproject.toml.
"""

import argparse
import re
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "qgis" / "hrrsi"
KINDS = {".py", ".txt", ".png"}
_ALWAYS = (1980, 1, 1, 0, 0, 0)  # the time of each file: another one would make another zip


def plugin_metadata() -> str:
    """Return metadata.txt with the version and the addresses of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Repository"]
    owner = repository.removeprefix("https://github.com/").split("/")[0]
    text = (PLUGIN / "metadata.txt").read_text(encoding="utf-8")
    text = text.replace("https://github.com/OWNER/hrrsi", repository).replace("OWNER", owner)
    return re.sub(r"^version=.*$", f"version={project['version']}", text, flags=re.MULTILINE)


def plugin_files() -> dict[str, bytes]:
    """Return what the zip holds, by name."""
    files = {path.name: path.read_bytes() for path in PLUGIN.iterdir() if path.suffix in KINDS}
    files["metadata.txt"] = plugin_metadata().encode()
    files["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    return {f"hrrsi/{name}": files[name] for name in sorted(files)}


def write_plugin(folder: Path) -> Path:
    """Write the zip into a folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    version = re.search(r"^version=(.*)$", plugin_metadata(), flags=re.MULTILINE)
    assert version is not None
    path = folder / f"hrrsi_qgis-{version[1]}.zip"
    draft = path.with_name(path.name + ".part")
    with zipfile.ZipFile(draft, "w") as archive:
        for name, content in plugin_files().items():
            entry = zipfile.ZipInfo(name, _ALWAYS)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content)
    draft.replace(path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the zip goes")
    print(f"wrote {write_plugin(parser.parse_args().folder)}")
