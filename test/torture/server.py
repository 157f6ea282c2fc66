"""The server under torment: start, stop, kill, and what its processes are. At any time one server is the current one;
after a promotion it is the former standby."""
import os
import re
import signal
import struct
import subprocess
import threading
import time

import psycopg2

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{directory}'
port = 5432
shared_preload_libraries = 'jobqueue'
fsync = {fsync}
max_connections = 100
max_worker_processes = 16
max_prepared_transactions = 50
max_wal_senders = 5
max_wal_size = '96MB'
min_wal_size = '32MB'
wal_retrieve_retry_interval = '200ms'
log_line_prefix = '%m %b[%p] %e %q%a '
log_checkpoints = off
restart_after_crash = on
jobqueue.max_workers = 6
jobqueue.poll_interval = 1000
# setting the clock forward and back must not empty the history, with which the ledger is compared
jobqueue.completed_retention = '9000d'
"""

# The sizes of the file systems that the primary gets, if it has disks of its own.
DATA_SIZE, WAL_SIZE = '1500m', '256m'

# A child of a killed postmaster that is still there after this time, in seconds, does not notice.
LINGERING = 10


def stat_of(pid):
    """State, parent and start time of a process; None if it is gone, or dead and not yet collected."""
    try:
        with open(f'/proc/{pid}/stat', encoding='latin-1') as file:
            fields = file.read().rsplit(') ', 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in 'ZX' else (fields[0], int(fields[1]), fields[19])


class Process:
    """A process, which is not confused with another one that has the same number later."""

    def __init__(self, pid, stat, title):
        self.pid, self.start, self.title = pid, stat[2], title

    def is_there(self):
        stat = stat_of(self.pid)
        return stat is not None and stat[2] == self.start

    def kill(self, number):
        if self.is_there():
            try:
                os.kill(self.pid, number)
                return True
            except ProcessLookupError:
                pass
        return False


class Clock:
    """The servers' wall clock, which can be set: see test/modules/shifted_clock.cpp."""

    def __init__(self, bindir, directory):
        libraries = subprocess.run([f'{bindir}/pg_config', '--pkglibdir'], check=True, capture_output=True, text=True)
        self.file = f'{directory}/clock'
        self.environment = {'LD_PRELOAD': libraries.stdout.strip() + '/shifted_clock.so', 'SHIFTED_CLOCK': self.file}
        self.ahead = 0  # of our clock, in seconds
        self.lock = threading.Lock()
        with open(self.file, 'wb') as file:
            file.write(struct.pack('q', 0))

    def move(self, seconds):
        with self.lock:
            self.ahead += seconds
            # in place, in one write: the servers have mapped the file
            with open(self.file, 'r+b', buffering=0) as file:
                file.write(struct.pack('q', self.ahead * 1000000))


class Server:
    def __init__(self, bindir, directory, fsync, report, clock, own_disks=False):
        self.bindir, self.directory, self.fsync, self.report, self.clock = bindir, directory, fsync, report, clock
        self.data, self.wal, self.log = directory + '/data', directory + '/wal', directory + '/log'
        self.own_disks = own_disks  # data and WAL have a file system each
        self.postmaster = None

    def program(self, name, *arguments):
        subprocess.run([f'{self.bindir}/{name}', *arguments], check=True, stdout=subprocess.DEVNULL)

    def configure(self, text):
        with open(self.data + '/postgresql.conf', 'a', encoding='utf-8') as file:
            file.write(text)

    def init(self):
        os.mkdir(self.directory)
        for path, size in ((self.data, DATA_SIZE), (self.wal, WAL_SIZE)):
            os.mkdir(path, 0o700)
            if self.own_disks:
                subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size},mode=0700', 'tmpfs', path], check=True)
        self.program(
            'initdb', '-D', self.data, '-X', self.wal, '-U', 'postgres', '-A', 'trust', '--locale=C', '-E', 'UTF8', '-N'
        )
        self.configure(SETTINGS.format(directory=self.directory, fsync=self.fsync))
        if 'TEMP_CONFIG' in os.environ:
            with open(os.environ['TEMP_CONFIG'], encoding='utf-8') as file:
                self.configure(file.read())

    def copy_of(self, primary):
        """A standby of a running server."""
        os.mkdir(self.directory)
        self.program('pg_basebackup', '-D', self.data, '-h', primary.directory, '-p', '5432', '-U', 'postgres', '-R',
                     '-X', 'stream', '-c', 'fast', '-N')
        self.configure(f"unix_socket_directories = '{self.directory}'\n")

    def launch(self):
        """Starts it as our own child, not pg_ctl's: a dead postmaster that nobody collects would hold its lock file."""
        with open(self.log, 'ab') as log:
            self.postmaster = subprocess.Popen([f'{self.bindir}/postgres', '-D', self.data], stdout=log, stderr=log,
                                               stdin=subprocess.DEVNULL, start_new_session=True,
                                               env={**os.environ, **self.clock.environment})

    def is_ready(self):
        """Asks like pg_ctl: by the last line of the lock file."""
        try:
            with open(self.data + '/postmaster.pid', encoding='utf-8') as file:
                lines = file.read().split('\n')
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.postmaster.pid) and lines[7].strip() in ('ready', 'standby')

    def start(self, seconds=120):
        """Tries again and again: children of the former postmaster may hold the shared memory for a moment."""
        deadline = time.monotonic() + seconds
        self.launch()
        while not self.is_ready():
            if self.postmaster.poll() is not None:
                time.sleep(0.1)
                if time.monotonic() < deadline:
                    self.launch()
            elif time.monotonic() > deadline:
                raise RuntimeError(f'the server does not start: see {self.log}')
            time.sleep(0.02)

    def stop(self, number, seconds=60):
        """SIGINT: fast, SIGQUIT: immediate."""
        self.postmaster.send_signal(number)
        try:
            self.postmaster.wait(seconds)
        except subprocess.TimeoutExpired:
            names = ', '.join(process.title for process in self.children())
            self.report(f'the server does not stop within {seconds} s; there are still: {names}')
            self.kill()

    def kill(self, lingering=LINGERING):
        """SIGKILL of the postmaster. Its children must notice by themselves."""
        children = self.children()
        self.postmaster.kill()
        self.postmaster.wait()
        began = time.monotonic()
        reported = False
        while children := [child for child in children if child.is_there()]:
            if not reported and time.monotonic() - began > lingering:
                reported = True
                names = ', '.join(child.title for child in children)
                self.report(f'{lingering} s after the end of the postmaster there are still: {names}')
            if time.monotonic() - began > 3 * LINGERING:
                for child in children:
                    child.kill(signal.SIGKILL)
            time.sleep(0.02)

    def fill_disk(self, path):
        """Takes the room that is left in that directory. Returns the file that has it."""
        name = path + '/ballast'
        with open(name, 'wb', buffering=0) as file:
            size = 1 << 20
            while size >= 4096:
                try:
                    file.write(b'\0' * size)
                except OSError:
                    size //= 2
        return name

    def log_lines(self):
        if os.path.exists(self.log):
            with open(self.log, encoding='utf-8', errors='replace') as log:
                yield from log

    def children(self, title=''):
        """The processes of the server whose title matches, in the order of their numbers."""
        found = []
        parent = self.postmaster.pid
        for pid in sorted(int(name) for name in os.listdir('/proc') if name.isdigit()):
            stat = stat_of(pid)
            if stat is None or stat[1] != parent:
                continue
            try:
                with open(f'/proc/{pid}/cmdline', encoding='utf-8', errors='replace') as file:
                    command = file.read().replace('\0', ' ').strip()
            except OSError:
                continue
            command = command.removeprefix('postgres: ')
            if re.search(title, command):
                found.append(Process(pid, stat, command))
        return found


def is_ours(line):
    """Has a process of ours written this line of the log?"""
    return ' jobqueue ' in line[:60]


class Cluster:
    """The current server, and connections to it."""

    def __init__(self, bindir, directory, fsync, report, own_disks):
        self.bindir, self.directory, self.fsync, self.report = bindir, directory, fsync, report
        self.own_disks = own_disks
        self.servers = []
        self.clock = Clock(bindir, directory)
        self.current = self.new_server('primary', own_disks)
        self.giving_up = threading.Event()

    def new_server(self, name, own_disks=False):
        server = Server(self.bindir, f'{self.directory}/{name}', self.fsync, self.report, self.clock, own_disks)
        self.servers.append(server)
        return server

    def connect(self, user='postgres', database='app', seconds=120, options=''):
        """Waits until the server takes the connection. Every statement is a transaction unless it says BEGIN."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                connection = psycopg2.connect(host=self.current.directory, port=5432, user=user, dbname=database,
                                              application_name=threading.current_thread().name[:40], options=options)
                connection.autocommit = True
                return connection
            except psycopg2.OperationalError as error:
                if self.giving_up.is_set() or time.monotonic() > deadline:
                    raise RuntimeError(f'no connection within {seconds} s: {error}') from error
            time.sleep(0.05)

    def ask(self, statement, arguments=None, user='postgres', database='app', seconds=120):
        """Runs a statement until it is answered: for what may be done twice. Errors of SQL are raised, and
        nothing takes longer than a minute."""
        deadline = time.monotonic() + seconds
        while True:
            connection = self.connect(user, database, seconds, '-c statement_timeout=60s')
            try:
                with connection.cursor() as cursor:
                    cursor.execute(statement, arguments)
                    return cursor.fetchall() if cursor.description else []
            except psycopg2.Error as error:
                if not is_lost(error, connection) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            finally:
                connection.close()

    def shut_down(self):
        for server in self.servers:
            if server.postmaster and server.postmaster.poll() is None:
                server.stop(signal.SIGQUIT)


def is_lost(error, connection):
    """Was it the connection, rather than the statement, that failed? Then nobody knows what became of the statement."""
    return error.pgcode is None or error.pgcode.startswith(('57P', '08')) or connection.closed != 0
