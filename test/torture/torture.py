#!/usr/bin/env python3
"""The torture test. Clients enqueue, handlers and workers outside work, and a tormentor kills, stops, fills and
redefines what it can; afterwards what the clients were told is compared with what is there. See scripts/torture.

The same seed gives the same schedule of actions, and the same sequence of each client's doings; how they meet is up to
the machine.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import psycopg2

from ledger import FINISHED, TASKS, Ledger, Task
from load import FUNCTIONS, HANDLERS, SCHEMA, Load, register
from server import Cluster, is_ours
from torment import ACTIONS, LARGE, SCARCITY, Tormentor


# The most bytes that our processes may write into the log, whatever happens.
MOST_LOG = 1 << 20


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument('--bindir', required=True)
    parser.add_argument('--directory', required=True, help='for the servers; is made')
    parser.add_argument('--seconds', type=float, default=600, help='of torment, the standby included')
    parser.add_argument('--count', type=int, help='at most so many actions')
    parser.add_argument('--seed', default=str(random.SystemRandom().randrange(1000000)))
    parser.add_argument('--only', default='', help='actions, separated by commas or spaces')
    parser.add_argument('--fsync', default='off', choices=['on', 'off'])
    parser.add_argument('--producers', type=int, default=4)
    parser.add_argument('--workers', type=int, default=3)
    parser.add_argument('--pace', type=float, default=1, help='factor on the pauses between actions')
    parser.add_argument(
        '--own-disks', action='store_true', help='set by the program itself, when it has the right to mount'
    )
    options = parser.parse_args()
    options.only = re.split('[, ]+', options.only.strip(', ')) if options.only.strip(', ') else []
    if unknown := set(options.only) - {*ACTIONS, *SCARCITY, *LARGE, 'promote'}:
        parser.error(f'no such actions: {unknown}; there are ' + ', '.join([*ACTIONS, *SCARCITY, *LARGE, 'promote']))
    return options


class Run:
    def __init__(self, options):
        self.options = options
        os.makedirs(options.directory)
        self.ledger = Ledger()
        self.cluster = Cluster(options.bindir, options.directory, options.fsync, self.ledger.report, options.own_disks)
        self.load = Load(self.cluster, self.ledger, options.seed, options.producers, options.workers)
        # pylint: disable-next=consider-using-with
        journal = open(options.directory + '/actions', 'w', encoding='utf-8')
        only = [action for action in options.only if action != 'promote']
        if not options.only and options.seconds >= 300:
            only = [*ACTIONS, *SCARCITY]
        self.promotes = not options.only or 'promote' in options.only
        self.torments = not options.only or bool(only)
        self.tormentor = Tormentor(self.cluster, self.ledger, self.load, options.seed, only, journal)
        self.rows = {}

    def prepare(self):
        self.cluster.current.init()
        self.cluster.current.start()
        self.cluster.ask('CREATE DATABASE app', database='postgres')
        self.cluster.ask(SCHEMA)
        self.cluster.ask(FUNCTIONS % {'version': 0})
        self.cluster.ask(register())
        self.cluster.ask("CREATE FUNCTION hold_slots(integer) RETURNS integer LANGUAGE c AS 'hold_slots'")
        # Tasks must not be set aside because this test kills their processes.
        for (most,) in self.cluster.ask("SELECT max_val FROM pg_settings WHERE name = 'jobqueue.max_crashes'"):
            self.cluster.ask(f'ALTER SYSTEM SET jobqueue.max_crashes = {most}')
            self.cluster.ask('SELECT pg_reload_conf()')

    def torment(self):
        options = self.options
        # making a standby, promoting it, and what is done meanwhile
        promotion = min(40, options.seconds / 3) if self.promotes else 0
        if self.torments:
            self.tormentor.run(time.monotonic() + options.seconds - promotion, options.pace, options.count)
        if options.seconds >= 300 and not options.only:
            for action in LARGE:
                self.tormentor.act(action, options.seed)
        if self.promotes:
            self.tormentor.promote(min(20, promotion / 4))
            time.sleep(min(5, promotion / 4))

    def calm_down(self):
        """The torment is over: what was begun is ended, and all that waits is done."""
        self.tormentor.end_holds()
        self.tormentor.reset_settings()
        self.cluster.ask('SELECT jobqueue.resume_queue(NULL)')
        self.cluster.ask(register())
        self.load.stopping.set()
        self.load.calming.set()
        self.load.join(self.load.producers, 'producer')
        least, since = None, time.monotonic()
        while True:
            # Those that wait to be tried again may be tried now; those whose time has come must come by themselves.
            self.cluster.ask("SELECT count(jobqueue.retry(t.id)) FROM (SELECT id FROM jobqueue.tasks_live "
                             "WHERE status = 'scheduled' AND run_at > now() + '2 s' LIMIT 1000) t")
            live = self.cluster.ask('SELECT count(*) FROM jobqueue.tasks_live')[0][0]
            if live == 0:
                break
            if least is None or live < least:
                least, since = live, time.monotonic()
            if time.monotonic() - since > 40:
                hanging = self.cluster.ask(TASKS + 'WHERE slot = 0 ORDER BY id LIMIT 10')
                self.ledger.report(f'{live} tasks are not done, nor does their number fall: '
                                   f'{[Task(*row) for row in hanging]}; {self.tormentor.state()}', 'hang')
                break
            time.sleep(0.2)
        self.load.ending.set()
        self.load.join(self.load.workers, 'worker')

    def audit(self):
        """Compares the tables with the ledger."""
        connection = self.cluster.connect()
        with connection.cursor() as cursor:
            cursor.execute(TASKS)
            tasks = [Task(*row) for row in cursor]
            cursor.execute('SELECT token, task, attempt FROM effects')
            effects = {token: (task, attempt) for token, task, attempt in cursor}
            cursor.execute('SELECT token FROM outside_effects')
            outside = {token for (token,) in cursor}
            steps = {}
            cursor.execute('SELECT token, attempt, step FROM steps')
            for token, attempt, step in cursor:
                steps.setdefault(token, {}).setdefault(attempt, set()).add(step)
        connection.close()
        self.rows = self.ledger.audit(tasks, effects, steps, outside)
        charged = self.cluster.ask('SELECT coalesce(sum(crashes), 0) FROM jobqueue.tasks')[0][0]
        self.ledger.counts['crashes charged'] = charged
        if charged > (killed := self.killed_processes()):
            self.ledger.report(f'tasks are charged {charged} crashes, and only {killed} processes were killed')

    def killed_processes(self):
        """By us, or by the server: it kills those that do not end when it crashes."""
        killed = 0
        for server in self.cluster.servers:
            killed += sum('was terminated by signal 9' in line for line in server.log_lines())
        return max(killed, self.ledger.kills)

    def look_for_orphans(self):
        """When all is done no process is left; and work starts again from nothing."""
        report, ask = self.ledger.report, self.cluster.ask
        for what, query in {
                'prepared transactions': 'SELECT gid, prepared FROM pg_prepared_xacts',
                'advisory locks': "SELECT pid FROM pg_locks WHERE locktype = 'advisory'",
                'tasks that are finished and not put away':
                    f'SELECT id, status FROM jobqueue.tasks_live WHERE status IN {FINISHED}',
                'queues with something in them':
                    'SELECT queue, waiting, scheduled, running FROM jobqueue.queue_status '
                    'WHERE waiting + scheduled + running > 0 OR paused',
                'workers with a task': 'SELECT * FROM jobqueue.worker_status WHERE task_id IS NOT NULL',
                'workers whose process is gone':
                    'SELECT w.* FROM jobqueue.worker_status w LEFT JOIN pg_stat_activity a USING (pid) '
                    "WHERE w.pid IS NOT NULL AND a.backend_type IS DISTINCT FROM 'jobqueue worker'",
                'other handlers': f'SELECT * FROM jobqueue.handlers WHERE type NOT IN {tuple(HANDLERS)}',
        }.items():
            self.must_vanish(what, query)
        self.tormentor.set_and_reload('jobqueue.worker_idle_timeout', 1)
        self.must_vanish('idle workers', 'SELECT * FROM jobqueue.worker_status', 30)
        # a process gives its slot back a moment before it has ended
        deadline = time.monotonic() + 15
        while (left := self.cluster.current.children('^jobqueue worker')) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            report(f'worker processes that nobody knows: {[process.title for process in left]}')
        if len(found := self.cluster.current.children('^jobqueue launcher')) != 1:
            report(f'not one launcher, but {len(found)}')
        if len(found := self.cluster.current.children('^jobqueue scheduler')) > 1:
            report(f'more than one scheduler: {[process.title for process in found]}')
        self.tormentor.probe()
        self.fill_the_house()

    def fill_the_house(self):
        """Runs as many workers as there may be: a slot in shared memory that was not given back would be missing."""
        most = int(self.cluster.ask('SHOW jobqueue.max_workers')[0][0])
        # the last place is for another role
        tokens = self.tormentor.enqueue(['quick'] + ['work'] * (most - 1), 3600)
        self.must_vanish(f'fewer workers than the {most} that there is work for',
                         "SELECT json_agg(w), count(task_id) FROM jobqueue.worker_status w "
                         f"HAVING count(task_id) < {most}", 60)
        for token in tokens:
            self.ledger.entries[token].cancelled = True
        self.cluster.ask(
            "SELECT jobqueue.cancel(id) FROM jobqueue.tasks_live WHERE payload->>'token' = ANY (%s)", (tokens,)
        )
        self.must_vanish(
            'workers with a cancelled task', 'SELECT * FROM jobqueue.worker_status WHERE task_id IS NOT NULL'
        )

    def must_vanish(self, what, query, seconds=15):
        deadline = time.monotonic() + seconds
        while rows := self.cluster.ask(query):
            if time.monotonic() > deadline:
                self.ledger.report(f'after {seconds} s there are still {what}: {rows[:10]}')
                return
            time.sleep(0.1)

    def read_logs(self):
        """Reports lines that must never be in a log, and, for the reader, the other ones."""
        # Only a full disk for the WAL may cause a PANIC; then there is no room for an init file, either. A REINDEX that
        # was interrupted leaves an index.
        crash = re.compile(
            r'PANIC:(?!.*No space left on device)|TRAP:|stuck spinlock|duplicate key value| XX\d\d\d (?!.*(?:cannot'
            r' reindex invalid index|could not write init file))|runtime error:'
            r'|was terminated by signal (?!9\b)\d+'
        )
        problem = re.compile(r'\] \w{5} .*?(WARNING|ERROR|FATAL|PANIC):  (.*)')
        full = re.compile(r'\[(\d+)\] \w{5} .*PANIC:.*No space left on device')
        aborted = re.compile(r'\(PID (\d+)\) was terminated by signal 6\b')
        seen, size = Counter(), 0
        for server in self.cluster.servers:
            without_room = set()
            for line in server.log_lines():
                if found := full.search(line):
                    without_room.add(found[1])
                if crash.search(line) and not ((found := aborted.search(line)) and found[1] in without_room):
                    self.ledger.report(f'in the log: {line.strip()[:300]}', 'log ' + re.sub(r'\d+', 'N', line)[30:90])
                size += len(line) if is_ours(line) else 0
                self.ledger.counts['starts of the server'] += 'database system is ready to accept connections' in line
                if 'jobqueue' in line and (found := problem.search(line)):
                    seen[found[1] + ': ' + re.sub(r'\d+', 'N', found[2])[:110]] += 1
        self.ledger.counts['processes killed by the server'] = self.killed_processes() - self.ledger.kills
        self.ledger.counts['bytes of log by processes of ours'] = size
        if size > MOST_LOG:
            self.ledger.report(f'our processes have written {size} bytes of log')
        return seen

    def print_report(self, log):
        ledger = self.ledger
        fates = Counter(entry.fate for entry in ledger.entries.values())
        there = sum(1 for token, entry in ledger.entries.items() if entry.fate == 'unknown' and token in self.rows)
        statuses = Counter(task.status for task in self.rows.values())
        attempts = [task.attempts for task in self.rows.values()]
        print('--- seen by clients: ' + ', '.join(f'{what} {n}' for what, n in sorted(ledger.counts.items())))
        for line, n in log.most_common(15):
            print(f'--- in the log, {n} times: {line}')
        print('actions: ' + ', '.join(f'{action} {n}' for action, n in sorted(self.tormentor.counts.items())))
        print(f'tasks: {fates["must"]} acknowledged, {fates["never"]} not committed, '
              f'{fates["unknown"]} unknown ({there} of them there), {len(self.rows)} rows: '
              + ', '.join(f'{status} {n}' for status, n in sorted(statuses.items()))
              + f'; attempts {sum(attempts)}, most for one task {max(attempts, default=0)}')
        print(f'server: {ledger.counts["starts of the server"]} starts, {ledger.kills} of its processes killed')
        for kind, n in ledger.kinds.items():
            if n > ledger.most_of_a_kind:
                print(f'VIOLATION: of this kind {n} in all: {kind}')
        print(f'seed {self.options.seed}: '
              + (f'{sum(ledger.kinds.values())} violations' if ledger.kinds else 'ledger clean'), flush=True)

    def run(self):
        began = time.monotonic()
        print(f'seed {self.options.seed}, {self.options.seconds:.0f} s', flush=True)
        self.prepare()
        self.load.start()
        steps = [self.torment, self.calm_down, self.audit, self.look_for_orphans]
        try:
            for step in steps:
                step()
                print(f'{time.monotonic() - began:.0f} s: {step.__name__} ended', flush=True)
        except (psycopg2.Error, RuntimeError) as error:
            self.ledger.report(f'it cannot go on: {error}')
        finally:
            self.cluster.giving_up.set()
            self.cluster.shut_down()
        self.print_report(self.read_logs())
        return 1 if self.ledger.kinds else 0


def get_own_disks():
    """Runs this program again in namespaces of its own, where it may mount; processes and disks there end with it."""
    namespaces = [
        'unshare',
        '--user',
        '--map-current-user',
        '--mount',
        '--pid',
        '--fork',
        '--kill-child',
        '--mount-proc',
        '--keep-caps',
    ]
    try:
        subprocess.run([*namespaces, 'mount', '-t', 'tmpfs', 'tmpfs', '/tmp'], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f'no disks of its own, which could be filled: {error}', flush=True)
        return
    os.execvp(namespaces[0], [*namespaces, sys.executable, '-B', *sys.argv, '--own-disks'])


if __name__ == '__main__':
    if '--own-disks' not in sys.argv:
        get_own_disks()
    threading.excepthook = lambda args: sys.__excepthook__(args.exc_type, args.exc_value, args.exc_traceback)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(Run(arguments()).run())
