# The plugin `pty` for uWSGI's own build system: the same library as
# `forkptyrouter`, see ../uwsgiplugin.py. This folder may be a link to, or a
# copy of, that in the clone; a copy finds the clone beside it, as
# `forkptyrouter`.

import os
import sys


def find_crate():
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_locals.get('path')
        frame = frame.f_back
        if not isinstance(path, str):
            continue
        for own in (path, os.path.dirname(path)):
            for folder in (os.path.join(os.path.realpath(own), '..'), os.path.join(own, '..', 'forkptyrouter')):
                if os.path.exists(os.path.join(folder, 'Cargo.toml')):
                    return os.path.realpath(folder)
    sys.stderr.write('*** pty: cannot find the clone of forkptyrouter; put it beside this folder ***\n')
    sys.exit(1)


FORKPTYROUTER_PLUGIN = 'pty'
FORKPTYROUTER_CRATE = find_crate()
with open(os.path.join(FORKPTYROUTER_CRATE, 'uwsgiplugin.py')) as _source:
    exec(compile(_source.read(), os.path.join(FORKPTYROUTER_CRATE, 'uwsgiplugin.py'), 'exec'))
