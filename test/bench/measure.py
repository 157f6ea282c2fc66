"""The server under measurement, and what is measured with: psql, pgbench, and counters of CPU, WAL and memory.
Connection settings come from the environment."""

import json
import os
import re
import resource
import subprocess
import tempfile
import threading
import time

DATABASE = 'bench'
TICKS = os.sysconf('SC_CLK_TCK')
CORES = os.cpu_count()


class Failure(Exception):
    """A measurement that did not come about."""


class Session:
    """A psql that stays, so that a question costs a round trip and no process."""

    END = 'that is all'

    def __init__(self, bindir, database=DATABASE):
        # pylint: disable-next=consider-using-with
        self.psql = subprocess.Popen(
            [f'{bindir}/psql', '-X', '-q', '-At', '-F', '\t', '-v', 'ON_ERROR_STOP=1', '-d', database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.ask('SET client_min_messages = warning')

    def send(self, sql):
        self.psql.stdin.write(f"{sql.strip().rstrip(';')};\nSELECT '{self.END}';\n")
        self.psql.stdin.flush()

    def receive(self):
        lines = []
        for line in self.psql.stdout:
            if line.rstrip('\n') == self.END:
                return lines
            lines.append(line.rstrip('\n'))
        raise Failure('psql: ' + ' | '.join(lines)[-500:])

    def ask(self, sql):
        self.send(sql)
        return self.receive()

    def value(self, sql):
        return self.ask(sql)[0]

    def number(self, sql):
        return float(self.value(sql))

    def close(self):
        self.psql.stdin.close()
        self.psql.stdout.close()
        self.psql.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Pgbench:
    """Runs in the background until it is asked for its result."""

    def __init__(self, bindir, script, clients=1, seconds=None, transactions=None, rate=None, log=False):
        # pylint: disable-next=consider-using-with
        self.directory = tempfile.TemporaryDirectory()
        with open(f'{self.directory.name}/script', 'w', encoding='utf-8') as file:
            file.write(script)
        arguments = [
            f'{bindir}/pgbench',
            '-n',
            '-M',
            'prepared',
            '-c',
            str(clients),
            '-j',
            str(min(clients, CORES)),
            '-P',
            '1',
            '--failures-detailed',
            '-f',
            'script',
        ]
        arguments += ['-T', str(seconds)] if seconds else ['-t', str(transactions)]
        arguments += ['-R', str(rate)] if rate else []
        arguments += ['-l', '--log-prefix=log'] if log else []
        # pylint: disable-next=consider-using-with
        self.process = subprocess.Popen(arguments + [DATABASE], cwd=self.directory.name, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def result(self):
        output, progress = self.process.communicate()
        # a step that finds nothing ends its client
        errors = [line for line in progress.splitlines() if re.search('ERROR|FATAL|aborted', line)
                  and not re.search('expected one row, got 0|Run was aborted', line)]
        done = re.search(r'number of transactions actually processed: (\d+)', output)
        rate = re.search(r'^tps = ([\d.]+)', output, re.M)
        if errors or not done or not rate:
            raise Failure('pgbench: ' + (' | '.join(errors) or progress)[-500:])
        failed = {kind: int(count) for kind, count in
                  re.findall(r'^number of (serialization|deadlock) failures: (\d+)', output, re.M)}
        transactions, rate = int(done[1]), float(rate[1])
        ends = []  # of the transactions, seconds since 1970
        for name in sorted(os.listdir(self.directory.name)):
            if name.startswith('log'):
                with open(f'{self.directory.name}/{name}', encoding='ascii') as log:
                    ends += [int(line.split()[4]) + int(line.split()[5]) / 1e6 for line in log]
        self.directory.cleanup()
        return {'transactions': transactions, 'rate': rate, 'seconds': transactions / rate if rate else 0, 'ends': ends,
                'series': [float(tps) for tps in re.findall(r'^progress: [\d.]+ s, ([\d.]+) tps', progress, re.M)],
                'deadlocks': failed.get('deadlock', 0)}


def stat(pid):
    """Fields of /proc/PID/stat from the state on; the name before them may contain spaces."""
    try:
        with open(f'/proc/{pid}/stat', encoding='latin-1') as file:
            return file.read().rsplit(') ', 1)[1].split()
    except (OSError, IndexError):
        return None


def tree_cpu(pid):
    """CPU seconds of a server: the process, its children, and those that are gone."""
    while True:
        before = stat(pid)
        ticks = sum(map(int, before[11:15]))
        for entry in os.listdir('/proc'):
            if entry.isdigit() and (fields := stat(entry)) and int(fields[1]) == pid:
                ticks += int(fields[11]) + int(fields[12])
        # a child that was collected meanwhile would be counted twice, or not at all
        if stat(pid)[13:15] == before[13:15]:
            return ticks / TICKS


def cpu_seconds(pids):
    return sum(int(ticks) for pid in pids for ticks in (stat(pid) or [])[11:13]) / TICKS


def machine():
    with open('/proc/stat', encoding='ascii') as file:
        fields = [int(field) / TICKS for field in file.readline().split()[1:]]
    return {'idle': fields[3], 'iowait': fields[4], 'steal': fields[7]}


def own_cpu():
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in times)


def private_memory(pid):
    """Bytes of a process that it shares with nobody."""
    with open(f'/proc/{pid}/status', encoding='ascii') as file:
        return int(re.search(r'^RssAnon:\s*(\d+) kB', file.read(), re.M)[1]) * 1024


class Meter:
    """What a measurement costs, and whether others were at work on the machine."""

    def __init__(self, server):
        self.server = server
        self.before = self.read()

    def read(self):
        return {'time': time.monotonic(), 'server': tree_cpu(self.server.postmaster), 'own': own_cpu(), **machine(),
                'lsn': self.server.admin.value('SELECT pg_current_wal_insert_lsn()')}

    def result(self, jobs):
        after = self.read()
        taken = {key: after[key] - self.before[key] for key in after if key != 'lsn'}
        wal = self.server.admin.number(f"SELECT pg_wal_lsn_diff('{after['lsn']}', '{self.before['lsn']}')")
        others = CORES * taken['time'] - sum(taken[key] for key in ('idle', 'iowait', 'steal', 'server', 'own'))
        return {
            'wal_per_job': round(wal / max(jobs, 1)),
            'cpu_server_us_per_job': round(taken['server'] / max(jobs, 1) * 1e6, 1),
            'cpu_client_us_per_job': round(taken['own'] / max(jobs, 1) * 1e6, 1),
            'cpu_server_cores': round(taken['server'] / taken['time'], 2),
            'other_cores': round(others / taken['time'], 2),
            'steal': round(taken['steal'], 2),
        }


def until(condition, seconds, pause=0.01):
    """Waits for it; false if it did not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


class Snapshot:
    """A transaction that stays open, and keeps vacuum from removing what is deleted after it began."""

    def __init__(self, server):
        self.session = server.session()
        self.session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")

    def release(self):
        self.session.ask('COMMIT')
        self.session.close()


class Server:
    """A private server that runs already; each measurement has its database from nothing."""

    def __init__(self, bindir, data, workers):
        self.bindir, self.workers = bindir, workers
        with open(f'{data}/postmaster.pid', encoding='ascii') as file:
            self.postmaster = int(file.readline())
        self.admin = Session(bindir, 'postgres')

    def session(self):
        return Session(self.bindir)

    def configure(self, settings):
        self.admin.ask('ALTER SYSTEM RESET ALL')
        settings = {'synchronous_commit': 'on', 'jobqueue.max_workers': self.workers} | settings
        for name, value in settings.items():
            self.admin.ask(f"ALTER SYSTEM SET {name} = '{value}'")
        self.admin.ask('SELECT pg_reload_conf()')
        for name, value in settings.items():
            if not until(
                lambda n=name, v=value: self.admin.value(f"SELECT setting FROM pg_settings WHERE name = '{n}'")
                == str(v),
                10,
            ):
                raise Failure(f'{name} is not {value}')

    def recreate(self):
        self.admin.ask(f'DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)')
        self.admin.ask(f'CREATE DATABASE {DATABASE}')
        self.admin.ask('CHECKPOINT')

    def pgbench(self, script, **options):
        return Pgbench(self.bindir, script, **options)

    def settings(self):
        rows = self.admin.ask(
            "SELECT name, current_setting(name) FROM pg_settings WHERE sourcefile ~ 'postgresql(.auto)?.conf$' AND name"
            " !~ '^lc_|direc|^port|^listen|Zone|_timezone|^log|DateStyle|^default|^dynamic' OR name LIKE 'jobqueue.%'"
            " ORDER BY 1"
        )
        return dict(row.split('\t') for row in rows)

    def features(self):
        """What this version of jobqueue has; found out in a database of its own."""
        self.recreate()
        with self.session() as session:
            session.ask('CREATE EXTENSION jobqueue')
            return {
                'version': session.value('SELECT jobqueue.version()'),
                'fused': session.value("SELECT current_setting('jobqueue.fused_time', true) IS NOT NULL") == 't',
                'batch': (
                    session.value(
                        "SELECT bool_or('batch_size' = ANY(proargnames)) FROM pg_proc "
                        "WHERE proname = 'register_handler'"
                    )
                    == 't'
                ),
                'complete_and_claim': (
                    session.value("SELECT EXISTS (SELECT FROM pg_proc WHERE proname = 'complete_and_claim')") == 't'
                ),
            }


def every10(series):
    return [round(sum(series[i:i + 10]) / 10) for i in range(0, len(series) - 9, 10)]


def ends(series):
    return (
        {'first10': round(sum(series[:10]) / 10), 'last10': round(sum(series[-10:]) / 10)} if len(series) >= 20 else {}
    )


class Native:
    """Measures a peer of peers.py, as the harness does. For where that is not there, and for what it has no
    measurement for."""

    def __init__(self, server, peer):
        self.server, self.peer = server, peer
        self.session = None

    def __enter__(self):
        self.session = self.server.session()
        self.run(self.peer['setup'])
        return self

    def __exit__(self, *_):
        self.session.close()

    def run(self, statements):
        # VACUUM stands alone in psql, as long as nothing makes one request of several
        self.session.ask(statements)

    def fill(self, jobs, statements=None):
        self.run((statements or self.peer['fill']).replace('$n', str(jobs)))
        self.run('CHECKPOINT')

    def remaining(self):
        return int(self.session.number(self.peer['remaining']))

    def drain(self, clients=2, seconds=60, stop_at=0):
        """Until so many are left, or it has taken so long."""
        before = self.remaining()
        meter = Meter(self.server)
        start = time.monotonic()
        if 'start' in self.peer:
            self.run(self.peer['start'])
            until(lambda: self.remaining() <= stop_at, seconds)
            left, taken = self.remaining(), time.monotonic() - start
            self.run(self.peer['stop'])
        else:
            steps = -(-(before - stop_at) // self.peer['drainJobs'] // clients)
            taken = self.server.pgbench(self.peer['drain'], clients=clients, transactions=steps).result()['seconds']
            left = self.remaining()
        return {
            'jobs': before - left,
            'elapsed': round(taken, 3),
            'left': left,
            'rate': round((before - left) / taken, 1),
            **meter.result(before - left),
        }

    def sustain(self, clients=4, seconds=30, snapshot=False):
        held = Snapshot(self.server) if snapshot else None
        meter = Meter(self.server)
        if 'cycle' in self.peer:
            result = self.server.pgbench(self.peer['cycle'], clients=clients, seconds=seconds).result()
            series = [rate * self.peer['cycleJobs'] for rate in result['series']]
            jobs, taken = result['transactions'] * self.peer['cycleJobs'], result['seconds']
        else:
            first = self.session.number(self.peer['consumed'])
            start = time.monotonic()
            self.run(self.peer['start'])
            producers = self.server.pgbench(self.peer['produceK'], clients=clients, seconds=seconds)
            series = self.progress(lambda: producers.process.poll() is None)
            taken, jobs = time.monotonic() - start, self.session.number(self.peer['consumed']) - first
            producers.result()
            self.run(self.peer['stop'])
        if held:
            held.release()
        return {
            'jobs': int(jobs),
            'elapsed': round(taken, 3),
            'rate': round(jobs / taken, 1),
            **ends(series),
            'curve': every10(series),
            **meter.result(jobs),
        }

    def progress(self, goes_on, pause=1.0):
        """Jobs a second, second by second."""
        series, last, at = [], self.session.number(self.peer['consumed']), time.monotonic()
        while goes_on():
            time.sleep(max(0, at + pause - time.monotonic()))
            now, current = time.monotonic(), self.session.number(self.peer['consumed'])
            series.append((current - last) / (now - at))
            last, at = current, now
        return series

    def workers(self):
        """Process ids of the workers of this database."""
        return [int(pid) for pid in self.session.ask('SELECT pid FROM jobqueue.worker_status WHERE pid IS NOT NULL')]


class Harness:
    """The harness that runs the rivals: one measurement is one process that prints a line of JSON."""

    def __init__(self, directory, adapter):
        self.directory, self.adapter = directory, adapter

    def run(self, workload, peer, options, ours):
        words = [f'{key}={value}' for key, value in options.items()] + ([f'peer-file={self.adapter}'] if ours else [])
        limit = 300 + 4 * options.get('secs', 60)
        done = subprocess.run(['bash', f'{self.directory}/bench', workload, peer, *words], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=limit, check=False)
        try:
            record = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise Failure(f'{workload} {peer}: {done.stderr[-500:]}') from None
        if 'error' in record:
            raise Failure(f"{workload} {peer}: {record['error']}")
        return record


class Sampler(threading.Thread):
    """Calls something every so often while something else goes on."""

    def __init__(self, sample, pause):
        super().__init__(daemon=True)
        self.sample, self.pause, self.samples = sample, pause, []
        self.ended = threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(self.pause):
            try:
                self.samples.append(self.sample())
            except OSError:
                pass

    def stop(self):
        self.ended.set()
        self.join()
        return self.samples
