# Read by uWSGI's own build system, which executes this file (Python 2 or 3)
# and links what GCC_LIST names:
#
#   uwsgi --build-plugin DIR
#   python uwsgiconfig.py --plugin DIR [profile]
#   UWSGI_EMBED_PLUGINS=pty,forkptyrouter make
#
# The Rust part is built by cargo, against the header and the flags of the
# very server that is being built. pty/uwsgiplugin.py executes this file, too.

import hashlib
import os
import re
import subprocess
import sys
import tempfile

# Set by pty/uwsgiplugin.py.
NAME = globals().get('FORKPTYROUTER_PLUGIN', 'forkptyrouter')


def fail(line):
    sys.stderr.write('*** forkptyrouter: %s ***\n' % line)
    sys.exit(1)


def frames():
    # From the one that executes this file, outwards.
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def is_crate(folder):
    try:
        with open(os.path.join(folder, 'Cargo.toml')) as manifest:
            return 'name = "forkptyrouter"' in manifest.read()
    except (IOError, OSError):
        return False


def find_crate():
    # There is no __file__: the callers know the path that they execute.
    if 'FORKPTYROUTER_CRATE' in globals():
        return globals()['FORKPTYROUTER_CRATE']
    for frame in frames():
        path = frame.f_locals.get('path')
        if not isinstance(path, str):
            continue
        for folder in (path, os.path.dirname(path)):
            if is_crate(folder):
                return os.path.realpath(folder)
    for folder in ('plugins/forkptyrouter', '.'):
        if is_crate(folder):
            return os.path.realpath(folder)
    fail('cannot find the folder of this uwsgiplugin.py')


def of_builder(name):
    # A variable of uwsgiconfig.py's function that builds a plugin or a server.
    for frame in frames():
        if frame.f_code.co_name in ('build_plugin', 'build_uwsgi'):
            return frame.f_code.co_name, frame.f_locals.get(name)
    return None, None


def server():
    # The header and the flags of the server, as it will answer to --dot-h and
    # --cflags: the library compares them on load.
    flags = os.environ.get('UWSGI_PLUGINS_BUILDER_CFLAGS')
    if flags:
        # --build-plugin, in any folder.
        header = '.uwsgi_plugins_builder/uwsgi.h'
    else:
        # In the folder of the server's source.
        header = 'uwsgi.h'
        builder, cflags = of_builder('cflags')
        if not cflags:
            fail('this uwsgiconfig.py is not one that is known; build with: make UWSGI=/path/to/uwsgi')
        # These two come after the server's own record of its flags was made.
        flags = ' '.join(flag for flag in cflags
                         if not flag.startswith(('-DUWSGI_CFLAGS=', '-DUWSGI_BUILD_DATE=')))
    try:
        with open(header, 'rb') as opened:
            return opened.read(), flags
    except (IOError, OSError):
        fail('there is no %s in %s' % (header, os.getcwd()))


def find_cargo():
    folders = os.environ.get('PATH', '').split(os.pathsep)
    folders.append(os.path.join(os.environ.get('CARGO_HOME', os.path.expanduser('~/.cargo')), 'bin'))
    for folder in folders:
        cargo = os.path.join(folder, 'cargo')
        if os.access(cargo, os.X_OK):
            return cargo
    fail('there is no cargo on PATH: install Rust 1.85 or later (https://rustup.rs)')


def target_folder(crate):
    # Inside of the clone, where git ignores it; elsewhere if it is read-only.
    target = os.path.join(crate, 'target')
    if os.access(target if os.path.isdir(target) else crate, os.W_OK):
        return os.path.join(target, 'uwsgi-build')
    name = 'forkptyrouter-%d-%s' % (os.getuid(), hashlib.sha1(crate.encode('utf-8')).hexdigest()[:12])
    target = os.path.join(tempfile.gettempdir(), name)
    try:
        os.mkdir(target, 0o700)
    except OSError:
        pass
    # A folder of that name in /tmp may be somebody else's.
    found = os.lstat(target)
    if os.path.islink(target) or found.st_uid != os.getuid() or found.st_mode & 0o22:
        fail('%s is read-only and %s belongs to somebody else: set TMPDIR' % (crate, target))
    return target


def written(path, content):
    # Its time stays if nothing changes, so that cargo has nothing to do.
    try:
        with open(path, 'rb') as opened:
            if opened.read() == content:
                return path
    except (IOError, OSError):
        pass
    if not os.path.isdir(os.path.dirname(path)):
        os.makedirs(os.path.dirname(path))
    with open(path, 'wb') as opened:
        opened.write(content)
    return path


def quoted(path):
    # uWSGI hands the whole line to a shell, and looks at how a name ends.
    return re.sub(r'([^A-Za-z0-9_./@%+=:,-])', r'\\\1', path)


def build():
    crate = find_crate()
    target = target_folder(crate)
    header, flags = server()
    # One per header, so that a build for another server disturbs nothing.
    header_file = written(
        os.path.join(target, 'headers', hashlib.sha1(header).hexdigest()[:12], 'uwsgi.h'), header)
    environment = dict(os.environ)
    environment['CARGO_TARGET_DIR'] = target
    environment['UWSGI_DOT_H'] = header_file
    environment['UWSGI_BUILD_CFLAGS'] = flags
    # They name a jobserver that was not handed on.
    for name in ('MAKEFLAGS', 'MFLAGS'):
        environment.pop(name, None)
    # `dev` for checks that ask nothing of the plugin's speed.
    profile = os.environ.get('FORKPTY_PROFILE') or 'release'
    command = [find_cargo(), 'build', '--profile', profile, '--locked', '--lib', '--quiet']
    if profile == 'dev':
        # Dependencies with the features that they have in the tests: see tools/profile.
        command.append('--workspace')
    print('*** forkptyrouter: cargo builds the plugin %s ***' % NAME)
    sys.stdout.flush()
    try:
        cargo = subprocess.Popen(command, cwd=crate, env=environment, stderr=subprocess.PIPE)
        printed = cargo.communicate()[1].decode('utf-8', 'replace')
    except (IOError, OSError):
        fail('cannot run %s: %s' % (command[0], sys.exc_info()[1]))
    if cargo.returncode != 0:
        # What build.rs has to say is one line among many of cargo's.
        said = re.findall('^ *forkptyrouter: (.*)', printed, re.M)
        if said:
            fail(said[0])
        sys.stderr.write(printed)
        fail('cargo failed, see above; it needs a C compiler and libclang (Debian: apt-get install gcc libclang-dev)')
    sys.stderr.write(printed)
    folder = 'debug' if profile == 'dev' else profile
    return target, os.path.join(target, folder, 'libforkptyrouter.a')


def link_flags(target):
    # Nothing refers to an archive's members from within a plugin, so an
    # archive alone gives an empty one.
    symbol = NAME + '_plugin'
    flags = ['-Wl,-u,' + symbol]
    builder, name = of_builder('name')
    if builder != 'build_plugin':
        return flags
    exported = [symbol]
    if NAME == 'forkptyrouter':
        # Another name of the same struct, as in the library that make builds.
        # Not in a server: others' plugins may have it, too.
        flags.append('-Wl,--defsym,uwsgi_plugin=' + symbol)
        exported.append('uwsgi_plugin')
    # `--build-plugin "DIR other"`: the loader will look for other_plugin.
    if name and name != NAME:
        flags.append('-Wl,--defsym,%s_plugin=%s' % (name, symbol))
        exported.append(name + '_plugin')
    script = written(
        os.path.join(target, 'exports', '-'.join(exported)),
        ('{ global: %s; local: *; };\n' % '; '.join(exported)).encode('ascii'))
    flags.append('-Wl,--version-script=' + quoted(script))
    # See build.rs for the reasons.
    flags += ['-Wl,-z,nodelete', '-Wl,-z,relro', '-Wl,-z,now', '-Wl,--gc-sections']
    return flags


target, archive = build()

CFLAGS = []
LDFLAGS = link_flags(target)
LIBS = ['-lgcc_s', '-lutil', '-lrt', '-lpthread', '-lm', '-ldl']
GCC_LIST = [quoted(archive)]
