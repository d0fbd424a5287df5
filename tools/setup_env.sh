#!/bin/sh
# usage: setup_env.sh FOLDER EXTRA: make a virtual environment with this checkout and one extra in it, unless it is there already.
set -eu
venv=$1 extra=$2
[ -n "${SKIP_INSTALL:-}" ] && exit 0

stamp="$(cat settings.ini setup.py pyproject.toml | cksum)"
for ready in "$extra" dev; do  # dev holds every other extra
    [ -f "$venv/.ready-$ready" ] && [ "$(cat "$venv/.ready-$ready")" = "$stamp" ] && exit 0
done

fits() {  # does this interpreter run, is it in range, can it make environments?
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}
if [ ! -x "$venv/bin/python" ]; then
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || { echo "PYTHON=$PYTHON does not run, lacks venv, or is not Python 3.11, 3.12 or 3.13" >&2; exit 1; }
    else
        for PYTHON in python3.13 python3.12 python3.11 python3 python none; do fits "$PYTHON" && break; done
        [ "$PYTHON" != none ] || { echo "No Python 3.11, 3.12 or 3.13 with the venv module found; install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
    fi
    echo "Making $venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$venv"
fi
echo "Installing hierlearn[$extra] into $venv (several minutes the first time)"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --upgrade pip
"$venv/bin/python" -m pip install -qq --disable-pip-version-check -e ".[$extra]"
printf '%s\n' "$stamp" > "$venv/.ready-$extra"
