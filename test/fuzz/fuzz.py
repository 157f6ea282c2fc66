#!/usr/bin/env python3
"""Calls the SQL API with random arguments from several sessions at once, while workers run handlers, and checks that
nothing breaks: no crash, no internal error, nothing that hangs, no task lost, doubled, or left from what was rolled
back.

Needs an empty server of its own, with jobqueue preloaded, whose log it reads: scripts/fuzz and the suite "fuzz" of
scripts/test start it. Each session chooses each of its transactions from (seed, session, number), whatever happened
before: the same seed gives the same sequence, except for the ids and names it finds in the tables. All statements are
written to DIRECTORY/session_N.sql, for psql, with the errors they gave as comments.

Exits with 1 if there are findings; each is in DIRECTORY/findings.sql, with the statements of its transaction.
"""

import argparse
import collections
import io
import os
import random
import re
import sys
import threading
import time
import traceback

import psycopg2
import psycopg2.extensions

from statements import NOISE, WAITERS, Catalog, Writer
from values import ODD_TEXTS, Values, encode

SUPERUSER = 'postgres'
ROLES = {
    SUPERUSER: 30,
    'fuzz_all': 40,
    'fuzz_producer': 5,
    'fuzz_consumer': 5,
    'fuzz_manager': 5,
    'fuzz_none': 2,
    'Fuzz "quoted" \'\\ü': 13,
}
LEVELS = {'fuzz_producer': 'producer', 'fuzz_consumer': 'consumer', 'fuzz_manager': 'manager'}

# name: (signature, role); what is not here has the type's own name and runs as fuzz_all
HANDLERS = {
    'ok_task': ('ok_task(jobqueue.tasks)', 'fuzz_none'),
    'nothing': ('nothing(jsonb)', SUPERUSER),
    'messy': ('messy(jsonb)', 'fuzz_none'),
    'runs_sql_as_superuser': ('runs_sql_and_goes_on(jsonb)', SUPERUSER),
    'commits_task': ('commits_task(jobqueue.tasks)', 'fuzz_all'),
    'odd "name", \'ü\'': ('"odd ""name"", \'ü\'"(jsonb)', 'Fuzz "quoted" \'\\ü'),
}
PLAIN_HANDLERS = [
    'ok',
    'ok_atomic',
    'strict_null',
    'row_result',
    'rows_result',
    'huge_result',
    'bad_result',
    'divides',
    'fails',
    'sleeps',
    'stubborn',
    'recurses',
    'collides',
    'chains',
    'chains_and_fails',
    'runs_sql',
    'runs_sql_and_goes_on',
    'interferes',
    'commits',
]
# Rarely: such a task takes its worker along.
RARE_HANDLERS = ['dies']

# The classes of SQLSTATE that a caller has to reckon with.
CLASSES = {
    '0A',
    '21',
    '22',
    '23',
    '24',
    '25',
    '2B',
    '2D',
    '2F',
    '26',
    '34',
    '39',
    '3B',
    '3F',
    '40',
    '42',
    '44',
    '53',
    '54',
    '55',
    'P0',
    'JQ',
}
CODES = {'57014', '25P03', '57P05'}
# FATAL, in the log: a handler terminated its own worker; a session was idle in a transaction for too long.
FATAL_CODES = {'57P01', '25P03', '57P05'}
# What no answer and no line of the log may contain, whatever its SQLSTATE.
NEVER = re.compile(
    r'could not open relation|cache lookup failed|unrecognized node|invalid memory alloc|reference leak|leaked|SPI'
    r' stack|'
    r'unknown C\+\+ exception|std::|basic_string|vector::|TRAP:|runtime error:'
)
CRASH = re.compile(
    r'terminated by signal|PANIC:|TRAP:|runtime error:|terminating any other active server processes|exited with exit'
    r' code (?![01]\b)'
)
LOG_LINE = re.compile(
    r'^\d{4}-\S+ \S+ \S+ (?P<process>[^\[]+)\[(?P<pid>\d+)\] (?P<code>\w{5})'
    r' (?P<name>.*?)(?P<level>LOG|WARNING|ERROR|FATAL|PANIC):  (?P<text>.*)$'
)

LONGEST = 30  # seconds a call may take; see patience


def patience():
    """Others may be using the machine; the most so far, since a connection keeps the timeout it began with."""
    patience.most = max(patience.most, os.getloadavg()[0] / os.cpu_count())
    return patience.most


patience.most = 1.0


class Pools:
    """What is in the tables, as of a moment ago."""

    def __init__(self):
        self.tasks = []
        self.types = [
            type_name
            for type_name in (
                [*PLAIN_HANDLERS, *HANDLERS] * 3
                + ['chains', 'commits', 'ok'] * 8
                + RARE_HANDLERS
                + ['unhandled', 'bin'] * 8
                + ODD_TEXTS[1:]
            )
        ]
        self.queues = ['default', 'q1', 'q2', 'keep', 'Q "x"', "o'q", 'q' * 63, 'ü' * 31]
        self.roles = [*ROLES, 'fuzz_spare_1', 'fuzz_spare_2']
        self.functions = (
            [name + '(jsonb)' for name in PLAIN_HANDLERS]
            + [signature for signature, _ in HANDLERS.values()]
            + ['forbidden(jsonb)']
        )


class Findings:
    """Each kind once, with an example."""

    def __init__(self, directory):
        self.lock = threading.Lock()
        self.count = collections.Counter()
        self.path = os.path.join(directory, 'findings.sql')
        self.crashed = threading.Event()

    def add(self, key, what, statements=()):
        with self.lock:
            self.count[key] += 1
            if self.count[key] > 1:
                return
            script = b'\n'.join(statements)
            with open(self.path, 'ab') as out:
                out.write(b'-- FINDING: ' + encode(what.replace('\n', '\n-- ')) + b'\n' + script + b'\n\n')
            shown = script.decode('utf-8', 'backslashreplace')
            print('FINDING: %s\n%s\n' % (what, shown if len(shown) < 6000 else '... ' + shown[-6000:]), flush=True)


class Ledger:
    """The ids that were committed, rolled back, and removed."""

    def __init__(self):
        self.lock = threading.Lock()
        self.made = {}           # id: queue, if the call named it
        self.rolled_back = set()
        self.gone = set()        # by DELETE ... RETURNING
        self.touched = set()     # ids that a superuser wrote by hand: anything may happen to them
        self.erased = 0          # how many, by functions that do not say which

    def settle(self, events, committed):
        with self.lock:
            for kind, ids, detail in events:
                if kind == 'made' and committed:
                    self.made.update((one, detail[0]) for one in ids)
                elif kind == 'made' and not detail[1]:
                    self.rolled_back.update(ids)
                elif kind == 'touched':
                    self.touched.update(ids)
                elif kind == 'deleted' and committed:
                    self.gone.update(ids)
                elif kind == 'erased' and committed:
                    self.erased += sum(ids)

    def forget(self, events):
        """Nobody knows whether this was committed."""
        with self.lock:
            for kind, ids, _ in events:
                self.touched.update(ids if kind != 'erased' else ())


def quote_name(name):
    return '"' + name.replace('"', '""') + '"'


def classify(code, message):
    """Why this error should not be; None if it may."""
    if not code:
        return None
    if code.startswith('XX') or NEVER.search(message):
        return 'internal error %s' % code
    if code[:2] not in CLASSES and code not in CODES:
        return 'an error of an undocumented class, %s' % code
    return None


def general(message):
    """The message without what differs from case to case."""
    return re.sub(r'"[^"]*"?|\d+', '*', message.split('\n')[0])[:100]


class Session(threading.Thread):
    """One client: transaction after transaction, as this role and that."""

    def __init__(self, number, run):
        super().__init__(name='session %d' % number, daemon=True)
        self.number, self.run_, self.writer, self.ledger, self.findings = (
            number,
            run,
            run.writer,
            run.ledger,
            run.findings,
        )
        self.connections = {}
        self.claims = []
        self.outcomes = collections.Counter()   # (name, SQLSTATE or None)
        self.trace = open(os.path.join(run.directory, 'session_%d.sql' % number), 'wb', buffering=1 << 16)
        self.times = collections.Counter()      # seconds by name
        self.unit = []                          # the statements of the transaction, for psql
        self.now = None                         # (statement, since) while the server works on it
        self.transactions = 0

    def run(self):
        try:
            while not self.run_.over() and not self.findings.crashed.is_set():
                self.transaction(random.Random('%s/%s/%s' % (self.run_.seed, self.number, self.transactions)))
                self.transactions += 1
        except Exception:  # a mistake in the fuzzer
            self.findings.add(
                'fuzzer',
                'the fuzzer itself failed in transaction %d:\n%s' % (self.transactions, traceback.format_exc()),
                self.unit,
            )
        finally:
            for connection in self.connections.values():
                connection.close()
            self.trace.close()

    def connect(self, role):
        connection = self.connections.get(role)
        if connection is None or connection.closed:
            connection = psycopg2.connect(
                user=role,
                application_name='fuzz %d' % self.number,
                options='-c statement_timeout=%ds -c lock_timeout=4s' % (LONGEST * patience()),
            )
            connection.autocommit = True
            self.connections[role] = connection
        return connection

    def send(self, sql, name=None, copied=None):
        """Returns (SQLSTATE or None, rows, columns); SQLSTATE '' stands for a lost connection."""
        text = encode(sql) + (b';\n' + encode(copied) + b'\\.' if copied else b';')
        self.unit.append(text)
        self.trace.write(text + b'\n')
        start = time.monotonic()
        self.now = (text, start)
        code, message, rows, columns = None, '', [], []
        try:
            with self.connection.cursor() as cursor:
                if copied is not None:
                    cursor.copy_expert(encode(sql), io.BytesIO(encode(copied)) if 'FROM STDIN' in sql else io.BytesIO())
                else:
                    cursor.execute(encode(sql))
                    if cursor.description:
                        columns = [column.name for column in cursor.description]
                        rows = cursor.fetchmany(100000)
                self.status = cursor.statusmessage
        except UnicodeError:
            rows = []
        except psycopg2.Error as error:
            code, message = error.pgcode, str(error)
            if code is None:
                if self.connection.closed:
                    code = ''
                elif isinstance(error, psycopg2.OperationalError) and 'server closed' in message:
                    code = ''
                else:  # psycopg2 refused it
                    code = '22000'
        self.now = None
        if code is not None:
            self.trace.write(encode('-- %s: %s\n' % (code, message.split('\n')[0][:200])))
        del self.connection.notices[:]
        del self.connection.notifies[:]
        took = time.monotonic() - start
        if name:
            self.outcomes[name, code] += 1
        self.times[name or sql.split(' ')[0]] += took
        why = classify(code, message)
        if why:
            self.findings.add(
                (why, general(message)),
                '%s (session %d, transaction %d)\n%s' % (why, self.number, self.transactions, message[:2000]),
                self.unit,
            )
        if took >= LONGEST * patience() and name and not any(waiter in name for waiter in WAITERS):
            self.findings.add(
                ('long', name),
                '%.0f s for one call of %s (session %d, transaction %d)' % (took, name, self.number, self.transactions),
                self.unit,
            )
        if code == '' and not self.run_.lives():
            self.findings.crashed.set()
            self.findings.add(
                ('crash', self.number),
                'the server went away during the last of these statements of session %d (process %d), transaction %d'
                % (self.number, self.process, self.transactions),
                self.unit,
            )
        return code, rows, columns

    def note(self, statement, rows, columns):
        """What the statement did, for the ledger, if it is committed."""
        kind = statement.effect
        if kind == 'claimed':
            if len(columns) >= 2 and columns[:2] == ['id', 'attempts']:
                self.claims = (self.claims + [row[:2] for row in rows])[-40:]
        elif kind:
            wanted = [n for n, column in enumerate(columns) if column == 'id' or len(columns) == 1 or kind == 'touched']
            ids = [row[n] for row in rows for n in wanted if isinstance(row[n], int)]
            if ids:
                self.events[-1].append((kind, ids, statement.detail))

    def perform(self, statement):
        if self.run_.without and self.run_.without.search(statement.name):
            return True
        if statement.limit:
            self.send('SET ' + statement.limit)
        done = all(self.send(sql)[0] is None for sql in statement.before)
        if done:
            code, rows, columns = self.send(statement.sql, statement.name, statement.copied)
            done = code is None
        if done:
            self.note(statement, rows, columns)
            for sql in statement.after:
                self.send(sql)
        if statement.limit:
            self.send('RESET ' + statement.limit.split()[0])
        return done

    def settle(self, committed):
        for events in self.events:
            self.ledger.settle(events, committed)
        self.events = [[]]

    def transaction(self, rng):
        role = rng.choices(list(ROLES), list(ROLES.values()))[0]
        try:
            self.connection = self.connect(role)
        except psycopg2.Error as error:
            if not self.run_.lives():
                self.findings.crashed.set()
                return
            self.findings.add(('connect', role), 'no connection as %s: %s' % (role, error))
            time.sleep(1)
            return
        self.process = self.connection.info.backend_pid
        self.unit = [encode('\\connect - ' + (role if role.isidentifier() and role.isascii() else quote_name(role)))]
        self.trace.write(b'-- %d\n' % self.transactions + self.unit[0] + b'\n')
        self.events = [[]]
        noisy = rng.random() < 0.12
        if noisy:
            self.send(rng.choice(NOISE))
        kind = rng.random()
        statements = [
            self.writer.statement(rng, self.claims, role == SUPERUSER)
            for _ in range(rng.choice([1, 2, 3, 5]) if kind > 0.45 else 1)
        ]
        block = kind > 0.45 or any(statement.rollback or statement.in_block for statement in statements)
        if block:
            self.block(rng, statements)
        else:
            done = self.perform(statements[0])
            self.settle(done)
        if self.connection.closed:
            return
        if self.connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            self.send('ROLLBACK')
        if noisy:
            self.send('DISCARD ALL')
        if rng.random() < 0.01:
            self.connection.close()

    def block(self, rng, statements):
        self.send(
            'BEGIN'
            + rng.choices(
                [
                    '',
                    ' ISOLATION LEVEL REPEATABLE READ',
                    ' ISOLATION LEVEL SERIALIZABLE',
                    ' READ ONLY',
                    ' READ WRITE',
                    ' ISOLATION LEVEL SERIALIZABLE READ ONLY, DEFERRABLE',
                ],
                [60, 15, 10, 4, 8, 3],
            )[0]
        )
        savepoints = 0
        for statement in statements:
            draw, keep = rng.random(), rng.random()
            if draw < 0.5:
                self.send('SAVEPOINT s%d' % savepoints)
                savepoints += 1
                self.events.append([])
            done = self.perform(statement)
            if self.connection.closed:
                break
            if draw < 0.5 and (not done or keep < 0.4):
                if self.send('ROLLBACK TO SAVEPOINT s%d' % (savepoints - 1))[0] is None:
                    self.ledger.settle(self.events.pop(), False)
                    self.events.append([])
            elif draw < 0.1 and savepoints > 1:
                if self.send('RELEASE SAVEPOINT s%d' % (savepoints - 1))[0] is None:
                    last = self.events.pop()
                    self.events[-1].extend(last)
                    savepoints -= 1
            elif not done and keep < 0.9:
                break
        end = rng.random()
        if any(statement.rollback for statement in statements):
            end = 0.9
        if self.connection.closed:
            self.ledger.settle([event for events in self.events for event in events], False)
        elif end < 0.04:
            self.connection.close()
            self.trace.write(b'-- disconnected\n')
            self.settle(False)
        elif end < 0.1:
            name = "'fuzz %d %d'" % (self.number, self.transactions)
            prepared = self.send('PREPARE TRANSACTION ' + name)[0] is None and self.status == 'PREPARE TRANSACTION'
            committed = rng.random() < 0.6
            if prepared:
                prepared = self.send(('COMMIT' if committed else 'ROLLBACK') + ' PREPARED ' + name)[0] is None
            self.settle(committed and prepared)
        elif end < 0.7:
            code = self.send('COMMIT')[0]
            if code == '':
                for events in self.events:
                    self.ledger.forget(events)
            self.settle(code is None and self.status == 'COMMIT')
        else:
            self.send('ROLLBACK')
            self.settle(False)


class Run:
    def __init__(self, options):
        self.seed, self.directory, self.log_path = options.seed, options.directory, options.log
        self.without = options.without and re.compile(options.without)
        self.end = time.monotonic() + options.seconds
        self.ledger, self.findings, self.pools = Ledger(), Findings(options.directory), Pools()
        self.rng = random.Random('%s/monitor' % options.seed)
        self.log_position, self.log_rest = 0, b''
        self.seen = collections.Counter()
        self.connection = None
        self.cursor = self.open()
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'setup.sql'), encoding='utf-8') as setup:
            self.cursor.execute(setup.read())
        self.restore()
        catalog = Catalog(self.cursor)
        self.writer = Writer(catalog, Values(catalog.types), self.pools)
        self.started = self.one('SELECT pg_postmaster_start_time()')
        numbers = [options.only] if options.only else range(1, options.sessions + 1)
        self.sessions = [Session(number, self) for number in numbers]

    def open(self):
        self.connection = psycopg2.connect(
            user=SUPERUSER,
            application_name='monitor',
            options='-c lock_timeout=2s -c statement_timeout=%ds' % (20 * patience()),
        )
        self.connection.autocommit = True
        return self.connection.cursor()

    def over(self):
        return time.monotonic() > self.end

    def lives(self):
        """Is the server there, and did it not restart?"""
        try:
            psycopg2.connect(user=SUPERUSER, application_name='probe').close()
        except psycopg2.OperationalError:
            return False
        return not self.findings.crashed.is_set()

    def one(self, sql, *arguments):
        self.cursor.execute(sql, arguments or None)
        row = self.cursor.fetchone()
        return row and row[0]

    def attempt(self, sql, *arguments):
        """For what may meet a lock or a change made by the fuzzer."""
        try:
            self.cursor.execute(sql, arguments or None)
        except psycopg2.Error as error:
            if self.connection.closed:
                raise
            why = classify(error.pgcode, str(error))
            if why:
                self.findings.add((why, general(str(error))), '%s in: %s\n%s' % (why, sql, error))

    def restore(self):
        """What the sessions may have taken away, so that most calls still find something to do."""
        for role in ROLES:
            if role not in (SUPERUSER, 'fuzz_none'):
                for level in [LEVELS[role]] if role in LEVELS else ['producer', 'consumer', 'manager', 'sql']:
                    self.attempt('SELECT jobqueue.grant_access(%s, %s)', role, level)
        for name in PLAIN_HANDLERS + RARE_HANDLERS + list(HANDLERS):
            signature, role = HANDLERS.get(name, (name + '(jsonb)', 'fuzz_all'))
            self.attempt(
                'SELECT jobqueue.register_handler(%s, %s, run_as => %s, max_attempts => %s)',
                name,
                'fuzz.' + signature,
                role,
                self.rng.randint(1, 5),
            )
        self.attempt('SELECT jobqueue.resume_queue(NULL)')
        self.attempt('SELECT jobqueue.adopt()')

    def refresh(self):
        self.cursor.execute(
            """(SELECT id, attempts FROM jobqueue.tasks_live WHERE id IS NOT NULL ORDER BY random() LIMIT 150)
            UNION ALL (SELECT id, attempts FROM jobqueue.tasks_live WHERE status = 'processing' LIMIT 100)
            UNION ALL (SELECT id, attempts FROM jobqueue.tasks TABLESAMPLE system (1) LIMIT 50)"""
        )
        self.pools.tasks = self.cursor.fetchall() or [(1, 1)]

    def reload(self):
        """The settings that change how tasks get about; never those that remove tasks."""
        for name, values in (
            ('notify_mode', ['coalesced', 'immediate', 'off']),
            ('max_workers', [1, 2, 4, 6, 6]),
            ('worker_idle_timeout', [1, 5, 60]),
            ('worker_synchronous_commit', ['on', 'off']),
            ('poll_interval', [100, 1000, 5000]),
        ):
            if self.rng.random() < 0.5:
                self.attempt("ALTER SYSTEM SET jobqueue.%s = %s" % (name, self.rng.choice(values)))
        self.attempt('SELECT pg_reload_conf()')

    def watch(self):
        """Calls that do not even end when they are told to."""
        self.cursor.execute(
            """SELECT pid, left(query, 2000), wait_event_type, wait_event, now() - query_start FROM pg_stat_activity
            WHERE state = 'active' AND usename IS NOT NULL AND backend_type = 'client backend'
                AND pid <> pg_backend_pid()
            AND now() - query_start > interval '%d s'""" % (LONGEST * patience() * 2)
        )
        for pid, query, *waits in self.cursor.fetchall():
            self.findings.add(
                ('hangs', query[:60]), 'process %d ignores statement_timeout: %s' % (pid, waits), [encode(query)]
            )
            self.attempt('SELECT pg_terminate_backend(%s)', pid)

    def read_log(self):
        with open(self.log_path, 'rb') as log:
            log.seek(self.log_position)
            new = log.read()
        self.log_position += len(new)
        *lines, self.log_rest = (self.log_rest + new).split(b'\n')
        for line in lines:
            line = line.decode('utf-8', 'backslashreplace')
            parts = LOG_LINE.match(line)
            if CRASH.search(line) and (parts is None or parts['level'] in ('LOG', 'PANIC', 'FATAL')):
                self.findings.crashed.set()
                self.findings.add(('crash', 'log'), 'in the log: ' + line[:2000])
            elif 'Failed process was running' in line:
                self.findings.add(('crash', 'statement'), line[:2000])
            elif parts and parts['level'] != 'LOG':
                self.seen[parts['process'], parts['level'], parts['code']] += 1
                code, text = parts['code'], parts['text'][:2000]
                if parts['level'] == 'WARNING':
                    why = 'a warning about an internal error' if NEVER.search(text) or code.startswith('XX') else None
                elif parts['level'] == 'FATAL' and code in FATAL_CODES:
                    why = None
                elif code == '57P03' and self.findings.crashed.is_set():
                    why = None
                else:
                    why = classify(code, text)
                    if parts['level'] in ('FATAL', 'PANIC'):
                        why = parts['level'] + ' ' + code
                if why:
                    self.findings.add(
                        (why, general(text)), '%s in the log of %s:\n%s' % (why, parts['process'], line[:2000])
                    )
            elif parts and re.search(r'exited with exit code', parts['text']):
                self.seen['background worker', 'exit', parts['text'].rsplit(' ', 1)[1]] += 1

    def go(self):
        for session in self.sessions:
            session.start()
        next_restore = next_reload = time.monotonic() + 3
        while any(session.is_alive() for session in self.sessions) and not self.findings.crashed.is_set():
            now = time.monotonic()
            try:
                self.refresh()
                self.watch()
                if now > next_restore:
                    self.restore()
                    next_restore = now + 4
                if now > next_reload:
                    self.reload()
                    next_reload = now + 7
            except psycopg2.Error as error:
                if self.connection.closed:
                    break
                if error.pgcode not in ('55P03', '57014', '40P01'):
                    self.findings.add(('monitor', error.pgcode), 'the monitor failed: %s' % error)
            self.read_log()
            if now > self.end + LONGEST * patience() * 3:
                for session in self.sessions:
                    if session.is_alive():
                        self.findings.add(
                            ('stuck', session.number),
                            'session %d did not end' % session.number,
                            [session.now[0] if session.now else b''],
                        )
                break
            time.sleep(0.5)
        time.sleep(0.5)
        self.read_log()
        if not self.findings.crashed.is_set():
            self.check_restart()
            self.check_tasks()
            self.check_workers()
            self.read_log()

    def check_restart(self):
        self.cursor = self.open()
        if self.one('SELECT pg_postmaster_start_time()') != self.started:
            self.findings.add('restart', 'the server was restarted')

    def check_tasks(self):
        """The ledger against the table, once nothing but workers is left."""
        for (name,) in self.rows('SELECT quote_literal(gid) FROM pg_prepared_xacts'):
            self.attempt('ROLLBACK PREPARED ' + name)
        ledger = self.ledger
        self.cursor.execute('SET statement_timeout = 0')
        # One snapshot for all.
        self.cursor.execute("""SELECT 'task', id, count(*) FROM jobqueue.tasks GROUP BY id
            UNION ALL SELECT 'made', id, count(*) FROM fuzz.made GROUP BY id
            UNION ALL SELECT 'phantom', id, 1 FROM jobqueue.tasks WHERE type = 'phantom'""")
        present, by_handlers = {}, set()
        for what, one, count in self.cursor.fetchall():
            if what == 'task':
                present[one] = count
            elif what == 'made':
                by_handlers.add(one)
            else:
                self.findings.add(
                    'phantom', 'task %s was enqueued by a handler that was rolled back, and is there' % one
                )
        print(
            'tasks: '
            + ', '.join(
                '%s %d' % row for row in self.rows('SELECT status, count(*) FROM jobqueue.tasks GROUP BY 1 ORDER BY 1')
            )
        )
        known = set(ledger.made) | by_handlers
        missing = known - set(present) - ledger.gone - ledger.touched
        unexcused = [one for one in missing if ledger.made.get(one) != 'bin']
        if unexcused or len(missing) > ledger.erased:
            self.findings.add(
                'lost',
                '%d tasks are not there, %d were deleted by functions; lost are for instance %s'
                % (len(missing), ledger.erased, sorted(unexcused or missing)[:20]),
            )
        undead = {one for one in ledger.rolled_back if one in present} - known - ledger.touched
        if undead:
            self.findings.add(
                'undead',
                '%d tasks are there though their transaction was rolled back; for instance %s'
                % (len(undead), sorted(undead)[:20]),
            )
        doubled = [
            one
            for one, count in present.items()
            if count > 1 and one is not None and one not in ledger.touched and one in known
        ]
        if doubled:
            self.findings.add(
                'doubled', '%d tasks are there twice; for instance %s' % (len(doubled), sorted(doubled)[:20])
            )
        print(
            '%d tasks in the table; %d committed enqueues followed (%d by handlers), %d rolled back; %d deleted by'
            ' DELETE, %d gone otherwise (functions say %d)'
            % (
                len(present),
                len(known),
                len(by_handlers),
                len(ledger.rolled_back),
                len(ledger.gone & known),
                len(missing),
                ledger.erased,
            )
        )

    def rows(self, sql):
        self.cursor.execute(sql)
        return self.cursor.fetchall()

    def check_workers(self):
        """After all that, a plain task is done within seconds."""
        self.cursor.execute("SET statement_timeout = '60s'; SET client_min_messages = warning")
        self.cursor.execute('ALTER SYSTEM RESET ALL')
        self.cursor.execute('SELECT pg_reload_conf()')
        self.restore()
        self.cursor.execute(
            "CREATE TABLE fuzz.done (id bigint); GRANT INSERT ON fuzz.done TO PUBLIC;CREATE FUNCTION"
            " fuzz.at_the_end(task jobqueue.tasks) RETURNS text LANGUAGE sql AS $$INSERT INTO fuzz.done VALUES"
            " (task.id) RETURNING 'done'$$"
        )
        self.cursor.execute(
            "SELECT jobqueue.register_handler('at_the_end', 'fuzz.at_the_end(jobqueue.tasks)', queue => 'the end',"
            " run_as => 'fuzz_none')"
        )
        start = time.monotonic()
        ids = [
            row[0]
            for row in self.rows("SELECT jobqueue.enqueue('at_the_end', priority => -100) FROM generate_series(1, 20)")
        ]
        while True:
            left = self.one("SELECT count(*) FROM jobqueue.tasks WHERE id = ANY (%s) AND status <> 'completed'", ids)
            if left == 0 or time.monotonic() > start + 15 * patience():
                break
            time.sleep(0.05)
        twice = self.one('SELECT count(*) - count(DISTINCT id) FROM fuzz.done')
        if left or twice:
            state = (
                self.rows('SELECT * FROM jobqueue.worker_status')
                + self.rows(
                    "SELECT backend_type, state, wait_event, left(query, 100) FROM pg_stat_activity WHERE backend_type"
                    " LIKE 'jobqueue%'"
                )
                + self.rows("SELECT queue, waiting, running, paused FROM jobqueue.queue_status WHERE queue = 'the end'")
            )
            self.findings.add(
                'workers',
                'at the end %d of 20 tasks were not done after %.0f s, %d were done twice:\n%s'
                % (left, time.monotonic() - start, twice, '\n'.join(map(str, state))),
            )
        else:
            print('at the end 20 tasks were done in %.2f s' % (time.monotonic() - start))

    def report(self):
        calls, good, codes = collections.Counter(), collections.Counter(), collections.defaultdict(collections.Counter)
        for session in self.sessions:
            for (name, code), count in session.outcomes.items():
                calls[name] += count
                if code is None:
                    good[name] += count
                else:
                    codes[name][code or 'lost connection'] += count
        print('\n%8s %6s  %s' % ('calls', 'worked', 'what, and the errors'))
        for name in sorted(calls, key=lambda one: (one.startswith('('), '(' not in one, one)):
            if name.startswith('(in a handler)') or '(caught)' in name:
                continue
            print('%8d %5.0f%%  %s: %s' % (calls[name], 100 * good[name] / calls[name], name.replace('jobqueue.', ''),
                                           ' '.join('%s*%d' % one for one in codes[name].most_common(8))))
        print(
            '%8d         calls in PL/pgSQL whose errors are caught; %d enqueued for handlers that make them'
            % (
                sum(count for name, count in calls.items() if '(caught)' in name),
                sum(count for name, count in calls.items() if name.startswith('(in a handler)')),
            )
        )
        times = sum((session.times for session in self.sessions), collections.Counter())
        print('most seconds: ' + ', '.join('%s %.1f' % one for one in times.most_common(12)))
        uncalled = [function.signature for function in self.writer.catalog.functions if not calls[function.signature]]
        failed = [
            function.signature
            for function in self.writer.catalog.functions
            if calls[function.signature] and not good[function.signature] and not function.trigger
        ]
        if uncalled:
            print('never called: ' + ', '.join(uncalled))
        if failed:
            print('never succeeded: ' + ', '.join(failed))
        print('in the log: ' + ', '.join('%s %s %s: %d' % (*what, count) for what, count in sorted(self.seen.items())))
        print(
            '\n%d transactions, %d calls'
            % (sum(session.transactions for session in self.sessions), sum(calls.values()))
        )
        for key, count in self.findings.count.items():
            print('FINDING (%d times): %s' % (count, ': '.join(map(str, key)) if isinstance(key, tuple) else key))


def main():
    parser = argparse.ArgumentParser(description='Calls the SQL API with random arguments.')
    parser.add_argument('--seconds', type=float, default=300)
    parser.add_argument('--seed', type=int, required=True)
    parser.add_argument('--sessions', type=int, default=4)
    parser.add_argument('--only', type=int, help='only the session of this number, alone')
    parser.add_argument(
        '--without',
        help='leaves out what this regular expression matches in the list at the end: to look beyond a finding',
    )
    parser.add_argument('--log', required=True, help="the server's log")
    parser.add_argument('--directory', required=True, help='where to write what was done')
    options = parser.parse_args()
    # Python's own types do not hold everything that the server's do.
    as_text = psycopg2.extensions.new_type(
        (1082, 1083, 1114, 1184, 1186, 1266, 114, 3802), 'TEXT', lambda value, cursor: value
    )
    psycopg2.extensions.register_type(as_text)
    sys.stdout.reconfigure(line_buffering=True, errors='backslashreplace')
    print('seed %d, %d sessions, %.0f s' % (options.seed, options.sessions, options.seconds))
    run = Run(options)
    try:
        run.go()
    finally:
        run.report()
    # sessions that hang are daemons: leave without them
    sys.stdout.flush()
    os._exit(1 if run.findings.count else 0)


if __name__ == '__main__':
    main()
