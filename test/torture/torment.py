"""The tormentor: a schedule of actions drawn from a seed, and what they do to the server."""
import os
import random
import resource
import signal
import threading
import time
from collections import Counter

import psycopg2

from ledger import Entry
from load import FUNCTIONS, HANDLERS, register

# How many of each are in the deck from which the schedule is dealt.
ACTIONS = {
    'term_worker': 5, 'interrupt_worker': 2, 'kill_worker': 3, 'freeze_worker': 1,
    'term_scheduler': 2, 'kill_scheduler': 1, 'term_launcher': 2, 'kill_launcher': 1,
    'term_backend': 4, 'kill_backend': 1, 'kill_other': 1,
    'stop_immediate': 2, 'stop_fast': 1, 'kill_postmaster': 2, 'kill_starting': 1,
    'fill_slots': 1, 'no_workers': 1, 'reload': 4, 'old_snapshot': 2, 'lock_table': 1,
    'vacuum_full': 1, 'reindex': 1, 'vacuum': 1, 'checkpoint': 1,
    'advance_clock': 2, 'set_clock_back': 2,
    'replace_functions': 2, 'register': 2, 'unregister': 1, 'pause': 2, 'role': 1, 'database': 1,
    'cancel_at_barrier': 1,
    'calm': 2,
}
# Actions for which a short run has no time.
SCARCITY = {'fill_disk': 1, 'fill_wal': 1, 'limit_memory': 2}
# Not in the deck: it takes long.
LARGE = ['kill_with_backlog']
# While a standby is being made, and commits wait for it.
GENTLE = ['term_worker', 'term_backend', 'term_scheduler', 'reload', 'pause', 'replace_functions']

# How long a probe may wait on a server that is not tormented, in seconds.
PATIENCE = 30


def schedule(seed, only=None):
    """Endless (pause before, action, seed of its choices). First one of each, so that a short run sees most."""
    rnd = random.Random(f'{seed} schedule')
    known = {**ACTIONS, **SCARCITY}
    once = sorted(only or ACTIONS)
    every = [action for action in once for _ in range(known.get(action, 1))]
    deck = once
    while True:
        rnd.shuffle(deck)
        for action in deck:
            yield rnd.uniform(0.05, 1), action, rnd.getrandbits(64)
        deck = list(every)


class Tormentor:
    def __init__(self, cluster, ledger, load, seed, only, journal):
        self.cluster, self.ledger, self.load, self.journal = cluster, ledger, load, journal
        self.schedule = schedule(seed, only)
        self.random = random.Random()
        self.counts = Counter()
        self.holds = []
        self.began = time.monotonic()
        self.probes = 0
        self.versions = 0

    def run(self, until, pace, most=None, only=None):
        """Acts until that time. pace: factor on the pauses."""
        while time.monotonic() < until and most != sum(self.counts.values()):
            pause, action, seed = next(self.schedule)
            if only and action not in only:
                continue
            time.sleep(min(pause * pace, max(0, until - time.monotonic())))
            if time.monotonic() < until:
                self.act(action, seed)

    def act(self, action, seed):
        self.random.seed(seed)
        self.counts[action] += 1
        began = time.monotonic()
        note = ''
        try:
            note = getattr(self, action)() or ''
        except psycopg2.Error as error:
            note = f'{error.pgcode} {str(error).strip()}'
            # the server's own timeouts go by the clock that we set
            if error.pgcode == '57014' and time.monotonic() - began > 50:
                self.ledger.report(f'{action} takes longer than a minute: {self.state()}', f'{action} hangs')
            if error.pgcode and error.pgcode.startswith('XX'):
                self.ledger.report(f'{action}: {note}', f'{action} {error.pgcode}')
        self.journal.write(f'{began - self.began:8.2f} s {action} {note} ({time.monotonic() - began:.2f} s)\n')
        self.journal.flush()

    def hold(self, seconds, undo, name):
        """Calls undo after so many seconds in any case; other things happen meanwhile."""
        def wait():
            time.sleep(seconds)
            try:
                undo()
            except (psycopg2.Error, RuntimeError) as error:
                self.ledger.report(f'{name} could not be ended: {error}')
        thread = threading.Thread(target=wait, name=name, daemon=True)
        self.holds = [held for held in self.holds if held.is_alive()] + [thread]
        thread.start()

    def end_holds(self):
        for thread in self.holds:
            thread.join(60)
            if thread.is_alive():
                self.ledger.report(f'{thread.name} does not end')
        self.holds = []

    # Processes

    def victim(self, title):
        """Chooses a process, most often one that is at work."""
        victims = self.cluster.current.children(title)
        busy = [victim for victim in victims if not victim.title.endswith(' idle')]
        if busy and self.random.random() < 0.7:
            victims = busy
        return self.random.choice(victims) if victims else None

    def send(self, number, title):
        victim = self.victim(title)
        if victim is None:
            return 'nobody there'
        if victim.kill(number) and number == signal.SIGKILL:
            self.ledger.kills += 1
        return f'{victim.pid} {victim.title}'

    def kill_and_wait(self, title):
        """The server ends all its processes, and comes back by itself, unless its recovery finds the disk full."""
        victim = self.send(signal.SIGKILL, title)
        time.sleep(0.05)
        server = self.cluster.current
        deadline = time.monotonic() + 120
        while True:
            try:
                self.cluster.ask('SELECT 1', seconds=2)
                return victim
            except (psycopg2.Error, RuntimeError):
                if self.cluster.giving_up.is_set() or time.monotonic() > deadline:
                    raise
            if server.postmaster.poll() is not None:
                server.start()

    def term_worker(self):
        return self.send(signal.SIGTERM, '^jobqueue worker')

    def interrupt_worker(self):
        return self.send(signal.SIGINT, '^jobqueue worker')

    def kill_worker(self):
        return self.kill_and_wait('^jobqueue worker')

    def freeze_worker(self):
        victim = self.victim('^jobqueue worker')
        if victim is None:
            return 'nobody there'
        victim.kill(signal.SIGSTOP)
        self.hold(self.random.uniform(0.5, 3), lambda: victim.kill(signal.SIGCONT), 'freeze_worker')
        return f'{victim.pid} {victim.title}'

    def term_scheduler(self):
        return self.send(signal.SIGTERM, '^jobqueue scheduler')

    def kill_scheduler(self):
        return self.kill_and_wait('^jobqueue scheduler')

    def term_launcher(self):
        return self.send(signal.SIGTERM, '^jobqueue launcher')

    def kill_launcher(self):
        return self.kill_and_wait('^jobqueue launcher')

    def term_backend(self):
        return self.send(signal.SIGTERM, '^(producer|carrier) app ')

    def kill_backend(self):
        return self.kill_and_wait('^(producer|carrier) app ')

    def kill_other(self):
        return self.kill_and_wait('^(checkpointer|background writer|walwriter|autovacuum|logical replication)')

    # The server

    def stop_immediate(self):
        self.cluster.current.stop(signal.SIGQUIT)
        self.cluster.current.start()

    def stop_fast(self):
        self.cluster.current.stop(signal.SIGINT)
        self.cluster.current.start()

    def kill_postmaster(self):
        self.cluster.current.kill()
        self.cluster.current.start()

    def kill_starting(self):
        """Kills the server again while it starts."""
        self.cluster.current.kill()
        self.cluster.current.launch()
        time.sleep(self.random.uniform(0, 0.5))
        self.cluster.current.kill()
        self.cluster.current.start()

    def kill_with_backlog(self):
        """Workers that have so much to do that they never wait must still notice that the server is gone."""
        self.end_holds()
        self.reset_settings()
        many = 40000
        name = f'backlog-{self.random.getrandbits(32)}'
        for n in range(1, many + 1):
            self.ledger.add(f'{name}-{n}', Entry('quick'))
        self.cluster.ask('SELECT jobqueue.pause_queue(NULL)')
        self.cluster.ask(
            "INSERT INTO jobqueue.tasks (type, payload, max_attempts) SELECT 'quick', jsonb_build_object('token', %s ||"
            " n), 200 FROM generate_series(1, %s) n WHERE NOT EXISTS (SELECT FROM jobqueue.tasks_live WHERE"
            " payload->>'token' = %s)",
            (name + '-', many, name + '-1'),
        )
        self.ledger.decide([f'{name}-{n}' for n in range(1, many + 1)], 'must')
        self.cluster.ask('SELECT jobqueue.resume_queue(NULL)')
        time.sleep(0.5)
        self.cluster.current.kill(lingering=4)
        self.cluster.current.start()

    # Resources

    def fill_disk(self):
        """There is no room for tables; clients and handlers get errors meanwhile."""
        if not self.cluster.current.own_disks:
            return 'it has no disk of its own'
        ballast = self.cluster.current.fill_disk(self.cluster.current.data)
        self.hold(self.random.uniform(0.5, 3), lambda: os.unlink(ballast), 'fill_disk')
        return ''

    def fill_wal(self):
        """The server panics, and cannot start, until there is room again."""
        server = self.cluster.current
        if not server.own_disks:
            return 'it has no disk of its own'
        ballast = server.fill_disk(server.wal)
        deadline = time.monotonic() + 15
        while server.postmaster.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.unlink(ballast)
        if server.postmaster.poll() is None:
            return 'it goes on'
        server.start()
        return 'it gave up'

    def limit_memory(self):
        """One of our processes gets hardly more memory than it has."""
        victim = self.victim('^jobqueue (worker|scheduler|launcher)')
        if victim is None:
            return 'nobody there'
        try:
            with open(f'/proc/{victim.pid}/statm', encoding='ascii') as file:
                size = int(file.read().split()[0]) * resource.getpagesize()
            before = resource.prlimit(victim.pid, resource.RLIMIT_AS)
            resource.prlimit(
                victim.pid, resource.RLIMIT_AS, (size + self.random.choice([0, 1 << 20, 16 << 20]), before[1])
            )
        except (OSError, ValueError, IndexError):
            return 'it is gone'
        self.hold(self.random.uniform(0.5, 3), lambda: self.unlimit_memory(victim, before), 'limit_memory')
        return victim.title

    @staticmethod
    def unlimit_memory(victim, before):
        try:
            if victim.is_there():
                resource.prlimit(victim.pid, resource.RLIMIT_AS, before)
        except ProcessLookupError:
            pass

    def advance_clock(self):
        """Sets the clock forward, for good."""
        clock = self.cluster.clock
        clock.move(self.random.choice([1, 60, 3600, 86400, 40 * 86400]))
        return f'{clock.ahead} s ahead'

    def set_clock_back(self):
        """Sets the clock back for a moment. What sleeps by it, such as pg_sleep(), sleeps until it is right again."""
        clock = self.cluster.clock
        seconds = self.random.choice([1, 60, 3600, 86400, 400 * 86400])
        clock.move(-seconds)
        self.hold(self.random.uniform(0.5, 3), lambda: clock.move(seconds), 'set_clock_back')
        return f'by {seconds} s'

    def fill_slots(self):
        self.cluster.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'"
        )
        taken = self.cluster.ask('SELECT hold_slots(100)')[0][0]
        self.hold(self.random.uniform(1, 4), self.free_slots, 'fill_slots')
        return f'{taken} taken'

    def free_slots(self):
        """Ends the holders until none is left: one may still be starting."""
        while self.cluster.ask(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'slot holder'"):
            time.sleep(0.05)

    def set(self, name, value):
        """ALTER SYSTEM cannot be in a transaction, nor can two of them be sent as one statement."""
        self.cluster.ask(f'ALTER SYSTEM SET {name} = {value}' if value is not None else f'ALTER SYSTEM RESET {name}')

    def set_and_reload(self, name, value):
        self.set(name, value)
        self.cluster.ask('SELECT pg_reload_conf()')

    SETTINGS = {
        'jobqueue.max_workers': [1, 2, 6, 6, None], 'jobqueue.poll_interval': [100, 1000, 30000],
        'jobqueue.worker_idle_timeout': [1, 1, 60], 'jobqueue.notify_mode': ['coalesced', 'immediate', 'off'],
        'jobqueue.worker_synchronous_commit': ['on', 'off'],
    }

    def reload(self):
        name = self.random.choice(list(self.SETTINGS))
        value = self.random.choice(self.SETTINGS[name])
        self.set_and_reload(name, value)
        return f'{name} = {value}'

    def reset_settings(self):
        for name in self.SETTINGS:
            self.set(name, None)
        self.cluster.ask('SELECT pg_reload_conf()')

    def no_workers(self):
        self.set_and_reload('jobqueue.max_workers', 0)
        self.hold(self.random.uniform(0.5, 3), lambda: self.set_and_reload('jobqueue.max_workers', None), 'no_workers')

    def in_transaction(self, statement, seconds):
        """A session holds what it holds for this long, unless it is ended."""
        def stay():
            try:
                connection = self.cluster.connect()
                connection.autocommit = False
                connection.set_session(isolation_level='REPEATABLE READ')
                with connection.cursor() as cursor:
                    cursor.execute(statement)
                    time.sleep(seconds)
                connection.rollback()
                connection.close()
            except psycopg2.Error:
                pass
        self.hold(0, stay, statement)

    def old_snapshot(self):
        self.in_transaction('SELECT count(*) FROM jobqueue.tasks_live', self.random.uniform(2, 10))

    def lock_table(self):
        mode = self.random.choice(['SHARE', 'SHARE ROW EXCLUSIVE', 'EXCLUSIVE', 'ACCESS EXCLUSIVE'])
        self.in_transaction(f'LOCK TABLE jobqueue.tasks_live IN {mode} MODE', self.random.uniform(0.2, 1.5))
        return mode

    def vacuum_full(self):
        table = self.random.choice(
            ['tasks_live', 'tasks_live', 'tasks_history_1', 'tasks_failed', 'handlers', 'queues']
        )
        self.cluster.ask(f'VACUUM FULL jobqueue.{table}')
        return table

    def reindex(self):
        table = self.random.choice(
            ['TABLE jobqueue.tasks_live', 'TABLE CONCURRENTLY jobqueue.tasks_live', 'SYSTEM app']
        )
        self.cluster.ask(f'REINDEX {table}')
        return table

    def vacuum(self):
        self.cluster.ask('VACUUM ANALYZE jobqueue.tasks_live')

    def checkpoint(self):
        self.cluster.ask('CHECKPOINT')

    # Definitions

    def replace_functions(self):
        self.versions += 1
        self.cluster.ask(FUNCTIONS % {'version': self.versions})

    def register(self):
        kind = self.random.choice(list(HANDLERS))
        queue = self.random.choice([None, 'default', 'second', 'third'])
        self.cluster.ask(register([kind], queue))
        return f'{kind} {queue}'

    def unregister(self):
        kind = self.random.choice(list(HANDLERS))
        self.cluster.ask('SELECT jobqueue.unregister_handler(%s)', (kind,))
        self.hold(self.random.uniform(0, 2), lambda: self.cluster.ask(register([kind])), 'unregister')
        return kind

    def pause(self):
        queue = self.random.choice([None, 'default', 'second', 'outside'])
        self.cluster.ask('SELECT jobqueue.pause_queue(%s)', (queue,))
        self.hold(
            self.random.uniform(0.2, 2), lambda: self.cluster.ask('SELECT jobqueue.resume_queue(%s)', (queue,)), 'pause'
        )
        return queue

    def role(self):
        what, undo = self.random.choice([
            ('ALTER ROLE bob LOGIN', 'ALTER ROLE bob NOLOGIN'),
            ('ALTER ROLE alice NOLOGIN', 'ALTER ROLE alice LOGIN'),
            ("ALTER ROLE bob SET work_mem = '1MB'", 'ALTER ROLE bob RESET work_mem'),
            ('REVOKE CONNECT ON DATABASE app FROM PUBLIC', 'GRANT CONNECT ON DATABASE app TO PUBLIC'),
            ('ALTER ROLE bob SUPERUSER', 'ALTER ROLE bob NOSUPERUSER'),
        ])
        self.cluster.ask(what)
        self.hold(self.random.uniform(0.2, 2), lambda: self.cluster.ask(undo), 'role')
        return what

    def database(self):
        """Another database is created, does some work, and is dropped."""
        self.cluster.ask('DROP DATABASE IF EXISTS other WITH (FORCE)', database='postgres')
        self.cluster.ask('CREATE DATABASE other', database='postgres')
        try:
            self.cluster.ask('CREATE EXTENSION IF NOT EXISTS jobqueue', database='other')
            self.cluster.ask(
                '''CREATE OR REPLACE FUNCTION nap(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.3)';
                SET client_min_messages = warning;
                SELECT jobqueue.register_handler('nap', 'nap(jsonb)');
                SELECT jobqueue.enqueue('nap') FROM generate_series(1, 5)''',
                database='other',
            )
            time.sleep(self.random.uniform(0, 1))
            if self.random.random() < 0.3:
                self.cluster.ask('DROP EXTENSION jobqueue', database='other')
        finally:
            if self.random.random() < 0.5:
                self.cluster.ask('DROP DATABASE IF EXISTS other', database='postgres')
            else:
                self.cluster.ask('DROP DATABASE IF EXISTS other WITH (FORCE)', database='postgres')

    def cancel_at_barrier(self):
        """A worker learns at the same moment that its task is cancelled, and that all processes must answer."""
        self.cluster.ask('DROP DATABASE IF EXISTS barrier', database='postgres')
        self.cluster.ask('CREATE DATABASE barrier', database='postgres')
        token, = self.enqueue(['work'], 20)
        entry = self.ledger.entries[token]
        entry.cancelled = 'unknown'
        frozen = None
        for _ in range(50):
            found = self.cluster.ask(
                "SELECT t.id, w.pid FROM jobqueue.tasks_live t LEFT JOIN jobqueue.worker_status w ON w.task_id = t.id "
                "WHERE t.payload->>'token' = %s", (token,))
            pids = [pid for _, pid in found if pid]
            frozen = next((process for process in self.cluster.current.children('^jobqueue worker')
                           if process.pid in pids), None)
            if frozen:
                break
            time.sleep(0.05)
        if frozen:
            # Before cancel(), which waits for the worker if the task is one of a fused batch.
            self.hold(0.3, lambda: frozen.kill(signal.SIGCONT), 'cancel_at_barrier')
            frozen.kill(signal.SIGSTOP)
        answer = self.cluster.ask(
            "SELECT jobqueue.cancel(id) FROM jobqueue.tasks_live WHERE payload->>'token' = %s", (token,))
        if answer and answer[0][0]:
            entry.cancelled = True
        self.cluster.ask('DROP DATABASE IF EXISTS barrier', database='postgres')
        return 'frozen' if frozen else 'it does not run'

    # Looking after the server

    def calm(self):
        """The torment stops for a moment, and one task of each role, ahead of all others, must be done soon."""
        self.end_holds()
        self.reset_settings()
        self.probe()

    def enqueue(self, types, sleep):
        """Adds tasks of the tormentor's own, ahead of all others. Returns their tokens."""
        tokens = []
        for kind in types:
            self.probes += 1
            token = f'probe-{self.probes}'
            self.ledger.add(token, Entry(kind))
            self.cluster.ask(
                "SELECT jobqueue.enqueue(%s, jsonb_build_object('token', %s, 'sleep', %s), priority => -1000, "
                "max_attempts => 200) WHERE NOT EXISTS (SELECT FROM jobqueue.tasks WHERE payload->>'token' = %s)",
                (kind, token, sleep, token))
            self.ledger.decide([token], 'must')
            tokens.append(token)
        return tokens

    def probe(self):
        tokens = self.enqueue(['quick', 'work', 'steps'], 0)
        began = time.monotonic()
        while True:
            waiting = self.cluster.ask(
                "SELECT t.type, t.status, t.attempts, t.last_error FROM jobqueue.tasks_live t WHERE payload->>'token' ="
                " ANY (%s)",
                (tokens,),
            )
            if not waiting:
                return f'{time.monotonic() - began:.1f} s'
            if time.monotonic() - began > PATIENCE:
                self.ledger.report(f'nobody disturbs it, but for {PATIENCE} s this waits: {waiting}; {self.state()}',
                                   'probe')
                return 'in vain'
            time.sleep(0.02)

    def state(self):
        """Describes who does what, for the report."""
        return '; '.join(
            f'{what}: {self.cluster.ask(query)}'
            for what, query in {
                'workers': (
                    'SELECT pid, role, state, task_id, task_type, attempt, now() - state_since '
                    'FROM jobqueue.worker_status'
                ),
                'queues': (
                    'SELECT queue, waiting, scheduled, running, paused, unhandled_types FROM jobqueue.queue_status'
                ),
                'processes': (
                    "SELECT pid, backend_type, datname, wait_event, state, left(query, 60) FROM pg_stat_activity "
                    "WHERE backend_type ~ 'jobqueue|client'"
                ),
                'settings': "SELECT name, setting FROM pg_settings WHERE name ~ '^jobqueue' AND source <> 'default'",
                'locks': 'SELECT pid, relation::regclass::text, mode FROM pg_locks WHERE NOT granted',
            }.items()
        )

    # The standby

    def promote(self, seconds):
        """Commits wait for a standby; the primary dies under load; the standby takes over."""
        self.end_holds()
        self.reset_settings()
        primary = self.cluster.current
        standby = self.cluster.new_server('standby')
        standby.copy_of(primary)
        standby.start()
        self.set_and_reload('synchronous_standby_names', "'*'")
        self.wait_until(
            "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'", 'the standby does not come'
        )
        flushed = self.cluster.ask('SELECT pg_current_wal_flush_lsn()')[0][0]
        self.wait_until(
            f"SELECT bool_or(flush_lsn >= '{flushed}') FROM pg_stat_replication", 'the standby does not follow'
        )
        self.run(time.monotonic() + seconds, 1, only=GENTLE)
        self.end_holds()
        primary.kill()
        standby.program('pg_ctl', '-D', standby.data, '-w', '-t', '60', 'promote')
        self.cluster.current = standby
        self.counts['promote'] += 1
        self.journal.write(f'{time.monotonic() - self.began:8.2f} s promote\n')
        self.probe()

    def wait_until(self, question, otherwise, seconds=60):
        deadline = time.monotonic() + seconds
        while not (self.cluster.ask(question) or [[False]])[0][0]:
            if time.monotonic() > deadline:
                raise RuntimeError(otherwise)
            time.sleep(0.05)
