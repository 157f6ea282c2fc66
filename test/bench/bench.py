#!/usr/bin/env python3
"""The benchmark: runs its workloads in rounds, what is compared in turn, on a server that scripts/bench has started.
Rates and latencies of jobqueue, of the machine's limits and of rivals go to runs.jsonl as they come, and to
summary.json and a table at the end. See doc/performance.md for what is measured, and how.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time

import report
from measure import CORES, Failure, Harness, Meter, Native, Sampler, Server, cpu_seconds, every10, private_memory, until
from peers import PAYLOAD, PEERS

# A run beside which others took more of the machine than this many cores is repeated, twice at most.
NOISE = 0.3

HISTORY_OFF = {'jobqueue.completed_retention': 0}
SYNCHRONOUS = {'jobqueue.worker_synchronous_commit': 'on'}
DURABLE = {'jobqueue.fused_time': 0}

# How rivals are run at their best, and with what they are compared: options of the harness.
GRAPHILE = {'v': 'tuned', 'concurrency': 24}
PGBOSS_FETCH = {'v': 'fetch', 'bs': 1000}
PGBOSS_WORK = {'bs': 1000, 'burst': 'true', 'poll': 0.5}
PRODUCER = {'producers': 1, 'batch': 100, 'clients': 4, 'window': 2000}


def percentiles(values):
    values = sorted(values)
    pick = {
        f'p{share}': round(values[min(len(values) - 1, -(-len(values) * share // 100) - 1)], 3)
        for share in (50, 95, 99)
    }
    return pick | {'max': round(values[-1], 3)}


class Bench:
    def __init__(self, options):
        self.options = options
        self.server = Server(options.bindir, options.data, options.workers)
        self.harness = Harness(options.harness, options.adapter) if options.harness else None
        self.features = self.server.features()
        self.results = {}
        self.round = 0
        # pylint: disable-next=consider-using-with
        self.journal = open(os.path.join(options.results, 'runs.jsonl'), 'w', encoding='utf-8')

    # --- how anything is measured

    def size(self, full):
        return max(full // 50, 10000) if self.options.quick else full

    def seconds(self, full, quick=4):
        return quick if self.options.quick else full

    def record(self, workload, case, result, settings=None):
        result = {
            'at': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
            'workload': workload,
            'case': case,
            'round': self.round,
            'settings': settings or {},
            **result,
        }
        self.results.setdefault((workload, case), []).append(result)
        self.journal.write(json.dumps(result) + '\n')
        self.journal.flush()
        print(f"{self.round}  {workload:12} {case:28} {report.brief(result)}", flush=True)

    def measure(self, workload, case, run, settings=None):
        """One measurement, repeated when others used the machine meanwhile; run() is given a database from nothing."""
        if not re.search(self.options.cases, case):
            return
        best = None
        for _ in range(1 if self.options.quick else 3):
            try:
                self.server.configure(settings or {})
                self.server.recreate()
                meter = Meter(self.server)
                result = run()
                # whatever runs Redis is no child of ours, nor of the server
                if 'other_cores' not in result and 'BullMQ' not in case:
                    result['other_cores'] = meter.result(1)['other_cores']
            except (Failure, OSError, subprocess.TimeoutExpired) as failure:
                print(f'{self.round}  {workload:12} {case:28} FAILED: {failure}', flush=True)
                self.journal.write(
                    json.dumps({'workload': workload, 'case': case, 'round': self.round, 'error': str(failure)}) + '\n'
                )
                break
            if best is None or result.get('other_cores', 0) < best.get('other_cores', 0):
                best = result
            if best.get('other_cores', 0) <= NOISE:
                break
        if best:
            self.record(workload, case, best, settings)

    def peer(self, workload, case, peer, settings=None, **options):
        """A measurement that the harness has, done by it if it is there; else here, if the peer is one of ours."""
        what = options.pop('as_', workload)
        if self.harness:
            ours = peer in PEERS and peer != 'delret500'
            self.measure(workload, case, lambda: self.harness.run(what, peer, options, ours), settings)
        elif peer in PEERS:
            self.measure(workload, case, lambda: self.native(what, peer, options), settings)

    def native(self, workload, peer, options):
        with Native(self.server, PEERS[peer]) as native:
            native.fill(options.get('n', options.get('backlog', 10000)))
            if workload == 'drain':
                return native.drain(options.get('clients', 2), options.get('secs', 60))
            return native.sustain(options.get('clients', 4), options.get('secs', 30), options.get('snapshot', False))

    def rival(self, workload, case, peer, **options):
        if self.harness:
            self.peer(workload, case, peer, **options)

    def database(self, workload, case, peer, run, settings=None):
        """A measurement of our own: run(native), with the peer set up."""
        def prepared():
            with Native(self.server, PEERS[peer]) as native:
                return run(native)
        self.measure(workload, case, prepared, settings)

    # --- workloads

    def drain(self):
        """Everything queued before the clock starts; tasks a second until nothing is left, or for a minute."""
        limit = {'secs': self.seconds(60, 5)}
        self.peer('drain', 'limit', 'delret500', n=self.size(2000000), clients=2, **limit)
        self.peer('drain', 'ours, history off', 'jobqueue', HISTORY_OFF, n=self.size(2000000), **limit)
        self.rival('drain', 'graphile-worker', 'graphile', n=self.size(200000), procs=2, **GRAPHILE, **limit)
        self.peer('drain', 'ours', 'jobqueue', n=self.size(1000000), **limit)
        self.rival('drain', 'pg-boss, fetch', 'pgboss', n=self.size(200000), **PGBOSS_FETCH, **limit)
        self.rival('drain', 'pg-boss, work', 'pgboss', n=self.size(200000), concurrency=2, **PGBOSS_WORK, **limit)
        self.peer('drain', 'ours, synchronous', 'jobqueue', SYNCHRONOUS, n=self.size(1000000), **limit)
        self.rival('drain', 'BullMQ', 'bullmq', n=self.size(100000), concurrency=50, procs=2, **limit)
        self.rival(
            'drain',
            'BullMQ, fsync always',
            'bullmq',
            n=self.size(100000),
            concurrency=50,
            procs=2,
            fsync='always',
            **limit,
        )
        self.rival('drain', 'PgQ', 'pgq', n=self.size(1000000), **limit)
        if self.features['batch']:
            self.peer(
                'drain', 'ours, batches, history off', 'jobqueue_batch', HISTORY_OFF, n=self.size(2000000), **limit
            )
            self.peer('drain', 'ours, batches', 'jobqueue_batch', n=self.size(1000000), **limit)
        self.rival('drain', 'article pattern', 'seedidx', n=self.size(200000), clients=8, secs=self.seconds(10))

    def sustained(self):
        """Producers and workers at once, a standing backlog of 10,000."""
        often = {'as_': 'sustain', 'secs': self.seconds(30, 4)}
        self.peer('sustained', 'ours', 'jobqueue', clients=4, batch=100, **often)
        self.rival('sustained', 'graphile-worker', 'graphile', procs=1, **GRAPHILE, **PRODUCER, **often)
        self.peer('sustained', 'ours, history off', 'jobqueue', HISTORY_OFF, clients=4, batch=100, **often)
        self.rival('sustained', 'pg-boss', 'pgboss', **PGBOSS_WORK, **PRODUCER, **often)
        self.peer('sustained', 'ours, outside', 'jobqueue_outside', clients=4, **often)
        self.rival('sustained', 'BullMQ', 'bullmq', concurrency=50, producers=1, batch=100, clients=2, **often)
        self.rival('sustained', 'PgQ', 'pgq', clients=4, batch=50, backlog=0, **often)
        self.peer('sustained', 'limit', 'delret500', clients=2, **often)
        self.rival('sustained', 'article pattern', 'seedidx', clients=4, **often)

    def snapshot(self):
        """Sustained load while another session holds a snapshot."""
        held = {'as_': 'sustain', 'snapshot': 1}
        ours = held | {'secs': self.seconds(300, 22)}
        rivals = held | {'secs': self.seconds(60, 22)}
        self.peer('snapshot', 'ours', 'jobqueue', clients=4, batch=100, **ours)
        self.peer('snapshot', 'ours, outside', 'jobqueue_outside', clients=4, **ours)
        if self.round > 1:
            return  # that rivals fall is shown once
        self.peer('snapshot', 'pgmq pattern', 'pgmq_sql', clients=4, **rivals)
        self.peer('snapshot', 'limit', 'delret500', clients=2, **rivals)
        self.rival('snapshot', 'graphile-worker', 'graphile', procs=1, **GRAPHILE, **PRODUCER, **rivals)
        self.rival('snapshot', 'pg-boss', 'pgboss', **PGBOSS_WORK, **PRODUCER, **rivals)
        self.rival('snapshot', 'PgQ', 'pgq', clients=4, batch=50, backlog=0, **rivals)

    def enqueue(self):
        """Tasks a second into the queue; a type without handler, idle workers present."""
        seconds = self.seconds(6, 2)
        values = f"(type, payload) VALUES ('unhandled', '{PAYLOAD}')"
        select = f"(type, payload) SELECT 'unhandled', '{PAYLOAD}' FROM generate_series(1, 1000)"
        single = {'plain table': (f'INSERT INTO bench.plain {values};\n', 1),
                  'ours, INSERT': (f'INSERT INTO jobqueue.tasks {values};\n', 1),
                  'ours, enqueue()': (f"SELECT jobqueue.enqueue('unhandled', '{PAYLOAD}');\n", 1)}
        batches = {'plain table': (f'INSERT INTO bench.plain {select};\n', 1000),
                   'ours, INSERT': (f'INSERT INTO jobqueue.tasks {select};\n', 1000),
                   'ours, enqueue_many()': (PEERS['jobqueue']['enqueueK'].replace("'nothing'", "'unhandled'"), 1000)}

        def run(native, script, jobs, clients):
            native.run(
                "SELECT jobqueue.resume_queue(NULL); SELECT jobqueue.enqueue('nothing') FROM generate_series(1, 20)"
            )
            until(lambda: native.remaining() == 0, 10)
            native.run('VACUUM ANALYZE; CHECKPOINT')
            meter = Meter(self.server)
            result = self.server.pgbench(script, clients=clients, seconds=seconds).result()
            return {'rate': round(result['rate'] * jobs, 1), **meter.result(result['transactions'] * jobs)}

        rivals = {
            'graphile-worker': 'graphile',
            'pg-boss': 'pgboss',
            'BullMQ': 'bullmq',
            'PgQ': 'pgq',
            'article pattern': 'seedidx',
        }
        for clients, batch in ((1, 1), (8, 1), (64, 1), (1, 1000)):
            workload = f'enqueue {clients}' if batch == 1 else 'enqueue 1000s'
            for case, (script, jobs) in (single if batch == 1 else batches).items():
                self.database(
                    workload, case, 'jobqueue', lambda native, s=script, j=jobs, c=clients: run(native, s, j, c)
                )
            for case, peer in rivals.items():
                self.rival(
                    workload,
                    case,
                    peer,
                    as_='enqueue',
                    clients=clients,
                    secs=seconds,
                    **({'batch': batch} if batch > 1 else {}),
                )

    def copy(self):
        """COPY of 500,000 tasks, rows a second."""
        rows = self.size(500000)
        path = os.path.join(self.options.results, 'rows.copy')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(f'unhandled\t{PAYLOAD}\n' * rows)

        def run(native, table):
            native.run('CHECKPOINT')
            meter, start = Meter(self.server), time.monotonic()
            native.run(f"\\copy {table} (type, payload) FROM '{path}'\n")
            return {'rate': round(rows / (time.monotonic() - start), 1), **meter.result(rows)}

        self.database('copy', 'plain table', 'jobqueue', lambda native: run(native, 'bench.plain'))
        self.database('copy', 'ours', 'jobqueue', lambda native: run(native, 'jobqueue.tasks'))
        os.unlink(path)

    def probe(self, native, statement, count, hz=50):
        """Commit as the client sees it to the start of the handler, ms; one client, evenly."""
        native.run('CREATE SEQUENCE IF NOT EXISTS bench.probes; TRUNCATE bench.started')
        clients = self.server.pgbench(statement + ';\n', transactions=count, rate=hz, log=True).result()
        until(lambda: native.session.number('SELECT count(*) FROM bench.started') >= count, 60, 0.1)
        starts = [float(at) for at in native.session.ask('SELECT extract(epoch FROM at) FROM bench.started ORDER BY i')]
        if len(starts) != count:
            raise Failure(f'{len(starts)} of {count} tasks started')
        return {'latency_ms': percentiles([1000 * (start - end) for start, end in zip(starts, clients['ends'])])}

    def latency(self):
        """1,000 tasks at 50 a second on an idle server: commit to start of the handler, ms."""
        count = {'n': 1000 if not self.options.quick else 100}
        payload = "jsonb_build_object('i', nextval('bench.probes'))"
        statements = {'ours, enqueue()': f"SELECT jobqueue.enqueue('start', {payload})",
                      'ours, INSERT': f"INSERT INTO jobqueue.tasks (type, payload) VALUES ('start', {payload})"}

        def run(native, statement):
            native.run(
                "SELECT jobqueue.resume_queue(NULL); SELECT jobqueue.enqueue('nothing') FROM generate_series(1, 20)"
            )
            until(lambda: native.remaining() == 0, 10)
            return self.probe(native, statement, count['n'])

        for case, statement in statements.items():
            self.database('latency', case, 'jobqueue', lambda native, s=statement: run(native, s))
        if self.harness:
            self.peer('latency', 'ours, node client', 'jobqueue', **count)
        self.rival('latency', 'BullMQ', 'bullmq', **count)
        self.rival('latency', 'BullMQ, fsync always', 'bullmq', fsync='always', **count)
        self.rival('latency', 'graphile-worker', 'graphile', **count, **GRAPHILE)
        self.rival('latency', 'pg-boss, notify', 'pgboss', notify='true', **count)
        self.rival('latency', 'article pattern, NOTIFY', 'seednotify', **count)

    def loaded(self):
        """The same while producers keep the workers half busy: at half the rate of a drain just before."""
        def run(native):
            native.fill(self.size(500000))
            rate = native.drain(seconds=20)['rate']
            native.run(
                "DELETE FROM jobqueue.tasks WHERE status = 'pending'; VACUUM ANALYZE; CHECKPOINT; SELECT"
                " jobqueue.resume_queue(NULL)"
            )
            probes = 1000 if not self.options.quick else 100
            producers = self.server.pgbench(
                PEERS['jobqueue']['produceK'], clients=2, seconds=probes // 50 + 4, rate=rate / 2 / 100
            )
            time.sleep(2)
            result = self.probe(
                native, "SELECT jobqueue.enqueue('start', jsonb_build_object('i', nextval('bench.probes')))", probes
            )
            load = producers.result()
            return result | {'load': round(load['rate'] * 100), 'drained': rate}
        self.database('loaded', 'ours', 'jobqueue', run)

    def backlog(self):
        """Rate of a drain over the number of tasks that wait at its start; at most two million are done."""
        def run(native, size):
            done, taken = 0, 0
            meter = None
            # short drains are repeated, for their time is that of the wake-up, too
            for _ in range(max(1, min(20, 200000 // size))):
                native.fill(size)
                meter = Meter(self.server)
                result = native.drain(seconds=20, stop_at=max(0, size - 2000000))
                done, taken = done + result['jobs'], taken + result['elapsed']
            return {
                'backlog': size,
                'jobs': done,
                'rate': round(done / taken, 1),
                'other_cores': meter.result(1)['other_cores'],
            }

        sizes = [10000, 100000] if self.options.quick else [10000, 100000, 1000000, 10000000]
        for size in sizes:
            self.database('backlog', f'ours, {size}', 'jobqueue', lambda native, s=size: run(native, s), HISTORY_OFF)
        if self.round == 1:
            for size in sizes[:3:2] if not self.options.quick else sizes:
                limit = {'n': size, 'secs': self.seconds(20)}
                self.peer('backlog', f'limit, {size}', 'delret500', as_='drain', clients=2, **limit)
                self.rival('backlog', f'graphile-worker, {size}', 'graphile', as_='drain', procs=2, **GRAPHILE, **limit)
                self.rival('backlog', f'pg-boss, {size}', 'pgboss', as_='drain', **PGBOSS_FETCH, **limit)
                self.rival('backlog', f'article pattern, {size}', 'seedidx', as_='drain', clients=8, **limit)

    def outside(self):
        """Workers outside the server, one connection, batches of 100, beside pgmq's pattern in plain SQL."""
        options = {'as_': 'drain', 'n': self.size(300000), 'clients': 1}
        self.peer('outside', 'pgmq pattern', 'pgmq_sql', **options)
        self.peer('outside', 'ours, history off', 'jobqueue_outside', HISTORY_OFF, **options)
        if self.features['complete_and_claim']:
            self.peer('outside', 'ours, fused, history off', 'jobqueue_outside_fused', HISTORY_OFF, **options)
            self.peer('outside', 'ours, fused', 'jobqueue_outside_fused', **options)
        self.peer('outside', 'ours', 'jobqueue_outside', **options)

    def inflight(self):
        """10,000 tasks claimed by somebody outside, and not finished, beside none."""
        def run(native, claimed, type_):
            if claimed:
                native.run(
                    "SELECT jobqueue.resume_queue(NULL); SELECT count(*) FROM jobqueue.enqueue_many('claimed',"
                    f" ARRAY(SELECT '{PAYLOAD}'::jsonb FROM generate_series(1, {claimed}))); SELECT count(*) FROM"
                    f" jobqueue.claim(max_tasks => {claimed}, lease => '1 hour', types => '{{claimed}}')"
                )
                if type_ == 'nothing':
                    native.run('SELECT jobqueue.pause_queue(NULL)')
            native.fill(self.size(300000))
            # those that are claimed stay, with the lowest ids
            native.run(f"SELECT setval('bench.seen', {claimed + 1})")
            return native.drain(1, 30)
        for claimed in (0, 10000):
            for peer, name in (('jobqueue_outside', 'outside'), ('jobqueue', 'workers')):
                self.database(
                    'inflight',
                    f'{name}, {claimed}',
                    peer,
                    lambda native, c=claimed, p=peer: run(native, c, 'nothing' if p == 'jobqueue' else 'outside'),
                )

    def history(self):
        """A drain with millions of completed tasks kept, beside one with none."""
        rows = self.size(5000000)

        def run(native, kept):
            native.run("INSERT INTO jobqueue.tasks_history_1 (type, payload, status, attempts, finished_at, slot) "
                       f"SELECT 'nothing', '{PAYLOAD}', 'completed', 1, now(), 1 FROM generate_series(1, {kept})")
            native.run("SELECT setval('bench.seen', (SELECT last_value FROM jobqueue.tasks_id_seq))")
            native.fill(self.size(500000))
            return native.drain(seconds=30) | {'kept': kept}
        for kept in (0, rows):
            self.database('history', 'none' if not kept else 'long', 'jobqueue', lambda native, k=kept: run(native, k))

    def queues(self):
        """1,000 queues and types in use, beside one."""
        def run(native, count):
            if count > 1:
                native.run(
                    "SELECT count(*) FROM (SELECT jobqueue.register_handler('nothing_' || n, 'bench.nothing(jsonb)', "
                    f"queue => 'queue_' || n, run_as => 'bench_worker') FROM generate_series(1, {count}) n) registered"
                )
            name = "'nothing'" if count == 1 else f"'nothing_' || (n % {count} + 1)"
            queue = "'default'" if count == 1 else f"'queue_' || (n % {count} + 1)"
            native.fill(
                self.size(500000),
                f"INSERT INTO jobqueue.tasks (type, queue, payload) SELECT {name}, {queue}, '{PAYLOAD}' "
                "FROM generate_series(1, $n) n; VACUUM ANALYZE;",
            )
            return native.drain(seconds=30)
        for count in (1, 1000):
            self.database('queues', str(count), 'jobqueue', lambda native, c=count: run(native, c), HISTORY_OFF)

    def limits(self):
        """Groups of which one task runs at a time, a limit that is never reached, unique keys, a graph: beside none."""
        jobs = self.size(1000000)
        insert = (
            f"INSERT INTO jobqueue.tasks (type, payload, group_key, unique_key) SELECT 'nothing', '{PAYLOAD}', %s, %s "
            "FROM generate_series(1, $n) n; VACUUM ANALYZE;"
        )

        def run(native, prepare, group, key, count):
            native.run(prepare or 'SELECT 1')
            native.fill(count, insert % (group or 'NULL', key or 'NULL'))
            return native.drain(4, 120)

        def graph(native, size):
            native.fill(
                0,
                "SELECT count(*) FROM jobqueue.enqueue_flow((SELECT jsonb_agg(jsonb_build_object('name', l || '_' ||"
                " i, 'type', 'nothing', 'after', CASE WHEN l > 1 THEN jsonb_build_array((l - 1) || '_' || i) ELSE '[]'"
                f" END) ORDER BY l, i) FROM generate_series(1, 100) l, generate_series(1, {size // 100}) i)); VACUUM"
                " ANALYZE;",
            )
            return native.drain(4, 120)

        workers = {'jobqueue.max_workers': 4}
        cases = {'none': (None, None, None, jobs),
                 f'{jobs // 10:,} groups': (None, f"'g' || n % {jobs // 10}", None, jobs),
                 'unique keys': (None, None, "'k' || n", jobs),
                 'a rate': ("SELECT jobqueue.alter_queue('default', rate_limit => 1000000)", None, None, jobs // 10)}
        for case, (prepare, group, key, count) in cases.items():
            self.database(
                'limits',
                case,
                'jobqueue',
                lambda native, p=prepare, g=group, k=key, c=count: run(native, p, g, k, c),
                workers,
            )
        self.database('limits', 'a graph, 100 deep', 'jobqueue', lambda native: graph(native, jobs // 10), workers)

    def mixed(self):
        """One task in 1,000 sleeps for 0.1 s; beside short ones alone."""
        jobs = self.size(300000)

        def run(native, long):
            if long:
                native.fill(
                    jobs,
                    "INSERT INTO jobqueue.tasks (type, payload) SELECT CASE WHEN n % 1000 = 500 THEN 'pause' ELSE"
                    " 'nothing' END, "
                    """'{"seconds": 0.1}' FROM generate_series(1, $n) n; VACUUM ANALYZE;""",
                )
            else:
                native.fill(jobs)
            return native.drain(seconds=60)
        for case in ('short', 'mixed'):
            self.database('mixed', case, 'jobqueue', lambda native, c=case: run(native, c == 'mixed'))

    def contention(self):
        """Four clients update the accounts that handlers update; what fused execution costs them."""
        # each in the order of the accounts, as tasks are in that of their ids
        script = '\\set a random(1, 498)\n\\set b :a + 1\n\\set c :a + 2\nBEGIN;\n' + ''.join(
            f'UPDATE bench.accounts SET balance = balance - 1 WHERE id = :{name};\n' for name in 'abc') + 'END;\n'
        orders = {'in order': 'n % 500 + 1', 'at random': '1 + floor(random() * 500)'}

        def run(native, order):
            if order:
                native.fill(
                    self.size(1000000),
                    "INSERT INTO jobqueue.tasks (type, payload) SELECT 'book', "
                    f"jsonb_build_object('account', {order}) FROM generate_series(1, $n) n; VACUUM ANALYZE;",
                )
                native.run(native.peer['start'])
                time.sleep(1)
            before = native.remaining()
            meter = Meter(self.server)
            result = self.server.pgbench(script, clients=4, seconds=self.seconds(15, 4)).result()
            left = native.remaining()
            deadlocks = int(
                native.session.number('SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()')
            )
            return {'rate': result['rate'], 'victims': result['deadlocks'], 'deadlocks': deadlocks, 'left': left,
                    'tasks': round((before - left) / result['seconds']), **meter.result(result['transactions'])}

        self.database('contention', 'clients alone', 'jobqueue', lambda native: run(native, None))
        modes = {'durable': DURABLE, 'fused': {}} if self.features['fused'] else {'durable': {}}
        for name, order in orders.items():
            for mode, settings in modes.items():
                self.database(
                    'contention', f'{mode}, {name}', 'jobqueue', lambda native, o=order: run(native, o), settings
                )

    def urgent(self):
        """While a million wait and are being worked on: from commit to start, ms, of a task with a lower priority
        number, and of one whose transaction began before all the others."""
        probes = 30 if not self.options.quick else 5

        def run(native, older):
            sessions = [self.server.session() for _ in range(probes)]
            if older:
                for number, session in enumerate(sessions):
                    session.ask(f"""BEGIN; SELECT jobqueue.enqueue('start', '{{"i": {number}}}')""")
            native.fill(self.size(2500000))
            # ids of transactions that are still open lie below
            native.run("SELECT setval('bench.seen', (SELECT min(id) FROM jobqueue.tasks_live))")
            native.run(native.peer['start'])
            time.sleep(1)
            commits = []
            for number, session in enumerate(sessions):
                session.ask(
                    'COMMIT' if older else f"""SELECT jobqueue.enqueue('start', '{{"i": {number}}}', priority => -10)"""
                )
                commits.append(time.time())
                time.sleep(0.1)
            waiting = native.remaining()
            until(lambda: native.session.number('SELECT count(*) FROM bench.started') >= probes, 60)
            rows = native.session.ask('SELECT i, extract(epoch FROM at) FROM bench.started')
            for session in sessions:
                session.close()
            if len(rows) != probes:
                raise Failure(f'{len(rows)} of {probes} started')
            return {'waiting': waiting, 'latency_ms': percentiles(
                [1000 * (float(at) - commits[int(number)]) for number, at in (row.split('\t') for row in rows)])}

        self.database('urgent', 'lower priority number', 'jobqueue', lambda native: run(native, False))
        self.database('urgent', 'older transaction', 'jobqueue', lambda native: run(native, True))

    HOUSEKEEPING = """BEGIN;
        INSERT INTO jobqueue.tasks (type, payload, queue)
            SELECT 'unhandled', '{}', 'by hand' FROM generate_series(1, $n * 3 / 10);
        UPDATE jobqueue.tasks_live SET status = 'completed' WHERE queue = 'by hand';
        INSERT INTO jobqueue.tasks (type, payload, queue, status, run_at)
            SELECT 'unhandled', '{}', 'due', 'scheduled', now() - n * interval '1 ms' FROM generate_series(1, $n) n;
        INSERT INTO jobqueue.tasks (type, payload, queue, status, attempts, claimed_by, processed_at, lease_expires_at)
            SELECT 'unhandled', '{}', 'leases', 'processing', 1, 'gone', now(), now()
            FROM generate_series(1, $n / 10);
        INSERT INTO jobqueue.tasks (type, payload, queue, status, slot, finished_at)
            SELECT 'unhandled', '{}', 'failed', 'failed', -1, now() - interval '90 days' FROM generate_series(1, $n);
        COMMIT"""

    def housekeeping(self):
        """A million tasks due at once, a million to purge, 300,000 finished by hand, 100,000 expired leases: how
        late do delayed tasks start meanwhile?"""
        probes = 100 if self.options.quick else 600

        def run(native, jobs):
            native.run("CREATE TABLE bench.due (i integer GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL); "
                       "SELECT jobqueue.resume_queue(NULL); SELECT jobqueue.enqueue('nothing')")
            until(lambda: native.remaining() == 0, 10)
            if jobs:
                native.run(self.HOUSEKEEPING.replace('$n', str(jobs)))
            self.server.pgbench(
                "WITH due AS (INSERT INTO bench.due (at) VALUES (clock_timestamp() + interval '0.3 s') RETURNING i, at)"
                " SELECT jobqueue.enqueue('start', jsonb_build_object('i', i), queue => 'start', run_at => at) FROM"
                " due;\n",
                transactions=probes,
                rate=50,
            ).result()
            left = native.session.number(
                "SELECT count(*) FROM jobqueue.tasks WHERE type = 'unhandled' AND (status IN ('scheduled',"
                " 'processing', 'failed') OR queue = 'by hand' AND slot = 0)"
            )
            until(lambda: native.session.number('SELECT count(*) FROM bench.started') >= probes, 60, 0.1)
            late = [float(ms) for ms in native.session.ask(
                'SELECT extract(epoch FROM s.at - d.at) * 1000 FROM bench.due d JOIN bench.started s USING (i)')]
            if len(late) != probes:
                raise Failure(f'{len(late)} of {probes} tasks started')
            return {'latency_ms': percentiles(late), 'left': left}

        settings = {'jobqueue.failed_retention': 2592000}
        self.database('housekeeping', 'nothing to do', 'jobqueue', lambda native: run(native, 0), settings)
        self.database('housekeeping', 'ours', 'jobqueue', lambda native: run(native, self.size(1000000)), settings)

    def memory(self):
        """20 million tasks through one worker, and the memory that it shares with nobody."""
        if self.round > 1:
            return
        jobs = 400000 if self.options.quick else 20000000

        def run(native):
            native.run(native.peer['start'] + native.peer['fill'].replace('$n', '1000'))
            until(lambda: native.remaining() == 0, 10)
            workers = native.workers()
            if len(workers) != 1:
                raise Failure(f'{len(workers)} workers')
            sampler = Sampler(lambda: private_memory(workers[0]), 0.2 if self.options.quick else 1)
            start, done = time.monotonic(), 0
            while done < jobs:
                native.run(native.peer['fill'].replace('$n', str(jobs // 10)).replace('VACUUM ANALYZE;', ''))
                until(lambda: native.remaining() < jobs // 100, 1800, 0.1)
                done += jobs // 10
            until(lambda: native.remaining() == 0, 600, 0.1)
            taken = time.monotonic() - start
            samples = sampler.stop()
            if native.workers() != workers:
                raise Failure('the worker was replaced')
            tenth = max(1, len(samples) // 10)
            return {'jobs': done, 'rate': round(done / taken, 1), 'first_mb': round(max(samples[:tenth]) / 2**20, 2),
                    'last_mb': round(max(samples[-tenth:]) / 2**20, 2), 'most_mb': round(max(samples) / 2**20, 2),
                    'curve': [round(value / 2**20, 2) for value in every10(samples)]}
        self.database('memory', 'ours', 'jobqueue', run, HISTORY_OFF | {'jobqueue.max_workers': 1})

    def idle(self):
        """CPU and WAL with handlers registered and workers waiting."""
        if self.round > 1:
            return

        def run(native):
            native.run("SELECT jobqueue.resume_queue(NULL); SELECT jobqueue.enqueue('nothing')")
            time.sleep(2)
            names = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'jobqueue%'"
            pids = [int(pid) for pid in native.session.ask(names)]
            lsn, before, start = (
                native.session.value('SELECT pg_current_wal_insert_lsn()'),
                cpu_seconds(pids),
                time.monotonic(),
            )
            time.sleep(self.seconds(60, 10))
            taken, used = time.monotonic() - start, cpu_seconds(pids) - before
            wal = native.session.number(f"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{lsn}')")
            return {'processes': len(pids), 'percent': round(100 * used / taken, 3), 'wal_per_s': round(wal / taken)}
        # who leaves in between takes what it has used along
        self.database('idle', 'ours', 'jobqueue', run, {'jobqueue.worker_idle_timeout': 600})

    # --- the whole

    def environment(self):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            cpus = [line.split(':', 1)[1].strip() for line in file if line.startswith('model name')]
        versions = {}
        if self.harness:
            with open(os.path.join(self.options.harness, 'package.json'), encoding='utf-8') as file:
                versions = json.load(file)['dependencies']
            versions['node'] = self.options.node_version
            redis = subprocess.run(
                ['redis-server', '--version'], stdout=subprocess.PIPE, text=True, check=False
            ).stdout.split()
            versions['redis'] = next((word[2:] for word in redis if word.startswith('v=')), '')
        return {
            'date': datetime.date.today().isoformat(),
            'cores': CORES,
            'cpu': cpus[0] if cpus else platform.machine(),
            'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30),
            'kernel': platform.release(),
            'postgresql': self.server.admin.value('SHOW server_version'),
            'commit': self.options.commit,
            'features': self.features,
            'settings': self.settings,
            'rivals': versions,
        }

    def run(self):
        self.server.configure({})
        self.settings = self.server.settings()
        start = time.monotonic()
        for name in self.options.workloads:
            for self.round in range(1, self.options.rounds + 1):
                getattr(self, name)()
            # after each, for a run takes hours
            summary = report.summarize(
                self.results,
                self.environment() | {
                    'rounds': self.options.rounds,
                    'quick': self.options.quick,
                    'minutes': round((time.monotonic() - start) / 60),
                },
            )
            with open(os.path.join(self.options.results, 'summary.json'), 'w', encoding='utf-8') as file:
                json.dump(summary, file, indent=1, ensure_ascii=False)
                file.write('\n')
        print()
        print('\n'.join(report.tables(summary)))
        if not self.harness:
            print('\nRivals were not run: there is no harness for them here. JOBQUEUE_PEERS says where.')
        return not summary['results']


WORKLOADS = [
    'drain',
    'sustained',
    'enqueue',
    'copy',
    'latency',
    'loaded',
    'outside',
    'contention',
    'urgent',
    'queues',
    'limits',
    'mixed',
    'housekeeping',
    'inflight',
    'history',
    'idle',
    'backlog',
    'snapshot',
    'memory',
]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument('--bindir', required=True, help="the private server's programs")
    parser.add_argument('--data', required=True, help='its data directory')
    parser.add_argument('--results', required=True, help='directory for runs.jsonl and summary.json')
    parser.add_argument('--harness', default='', help='directory of the harness that runs rivals')
    parser.add_argument('--adapter', default='', help='jobqueue.mjs, for the harness')
    parser.add_argument('--node-version', default='')
    parser.add_argument('--commit', default='')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--cases', default='', help='regular expression: only these')
    parser.add_argument('workloads', nargs='*')
    options = parser.parse_args()
    options.workloads = options.workloads or WORKLOADS
    if unknown := set(options.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {' '.join(WORKLOADS)}")
    return options


if __name__ == '__main__':
    sys.exit(Bench(arguments()).run())
