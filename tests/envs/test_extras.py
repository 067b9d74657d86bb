"""Optional packages: missing ones are named with the line that installs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hmasd.envs.extras import MissingPackageError, import_extra
from hmasd.envs.registry import make_env

LINE = r'pip install -c constraints\.txt -e "\.\[{}\]"'


def test_a_missing_package_is_named_with_its_install_line(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jaxmarl", None)  # as if it were not installed
    with pytest.raises(MissingPackageError, match=LINE.format("jaxmarl")):
        make_env("smax_3m", 1, 10)
    monkeypatch.setitem(sys.modules, "vmas", None)
    with pytest.raises(ValueError, match=LINE.format("vmas")):
        make_env("vmas:balance", 1, 10)


def test_an_installed_module_comes_back_and_a_broken_one_of_ours_is_no_missing_package() -> None:
    assert import_extra("json", "any").loads("1") == 1
    with pytest.raises(ModuleNotFoundError) as caught:
        import_extra("hmasd.nothing", "any")
    assert not isinstance(caught.value, MissingPackageError)


def test_naming_the_envs_imports_none_of_their_packages() -> None:
    code = (
        "import sys; from hmasd.envs.registry import env_names; names = env_names();"
        "print('smax_3m' in names, {'jax', 'jaxmarl', 'vmas', 'pettingzoo'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "set()"]
