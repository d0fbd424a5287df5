"""Package metadata for setuptools: everything is read from settings.ini."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
statuses = {"1": "1 - Planning", "2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}


def minors():
    "The supported Python versions, e.g. ['3.11', '3.12', '3.13']."
    low, high = (int(cfg[k].split(".")[1]) for k in ("min_python", "max_python"))
    return [f"3.{n}" for n in range(low, high + 1)]


def extra(name):
    "Requirements of one extra, those of the extras that it includes among them."
    found = cfg.get(f"{name}_requirements", "").split()
    for other in cfg.get(f"{name}_extras", "").split(): found += [r for r in extra(other) if r not in found]
    return found


def last(version): return f"{version.split('.')[0]}.{int(version.split('.')[1]) + 1}"


class WithResults(build_py):
    "The wheel brings the committed records, so that a notebook opened by itself finds them; a checkout reads nbs/results."
    def run(self):
        super().run()
        if getattr(self, "editable_mode", False): return
        target = Path(self.build_lib) / cfg["lib_path"] / "results"
        self.mkpath(str(target))
        for pattern in ("*.json", "*.npz"):
            for found in sorted((here / cfg["nbs_path"] / "results").glob(pattern)): self.copy_file(str(found), str(target / found.name))


extras = sorted(k[:-len("_requirements")] for k in cfg if k.endswith("_requirements"))
readme = here / "README.md"
setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"].split(),
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"], "Source": cfg["git_url"],
                  "Changelog": f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"},
    packages=find_namespace_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    include_package_data=True,
    package_data={cfg["lib_path"]: ["data/**", "explorers/**", "weights/**", "py.typed"]},
    python_requires=f">={cfg['min_python']},<{last(cfg['max_python'])}",
    install_requires=cfg["requirements"].split(),
    extras_require={name: extra(name) for name in extras},
    entry_points={"nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
                  "console_scripts": cfg.get("console_scripts", "").split()},
    classifiers=[f"Development Status :: {statuses[cfg['status']]}", "Intended Audience :: " + cfg["audience"],
                 "Intended Audience :: Education", "Intended Audience :: Science/Research",
                 "Natural Language :: " + cfg["language"], "Topic :: Scientific/Engineering :: Artificial Intelligence",
                 "Topic :: Scientific/Engineering :: Image Recognition"]
                + ["Programming Language :: Python :: " + v for v in minors()],
    cmdclass={"build_py": WithResults},
    zip_safe=False,
)
