"""Random statements: calls of the functions in schema jobqueue, whichever there are, and plain SQL on its tables."""

import re

from values import ODD_TEXTS, WORDS, Call, literal

# These remove tasks and do not say which: what is committed is limited to the queue 'bin', into which nothing gets but
# by an enqueue that names it.
ERASERS = re.compile(r'^(delete|purge|drop|truncate)_')
# These may rightly take long.
WAITERS = {'wait_for', 'drain'}

WEIGHTS = {
    'enqueue': 8,
    'enqueue_many': 4,
    'enqueue_unique': 4,
    'claim': 8,
    'complete': 6,
    'complete_many': 4,
    'fail': 5,
    'complete_and_claim': 5,
    'release': 3,
    'extend_lease': 3,
    'snooze': 3,
    'cancel': 2,
    'retry': 3,
    'register_handler': 3,
    'wait_for': 1,
    'pause_queue': 0.5,
}
# The engine keeps its place there; what a superuser writes into it would rightly empty a leaf.
ROLLED_BACK_TABLES = {'history_ring'}

NOISE = [
    "SET search_path = ''",
    'SET search_path = fuzz, pg_temp',
    "SET DateStyle = 'German, DMY'",
    "SET IntervalStyle = 'sql_standard'",
    "SET TimeZone = 'Asia/Kolkata'",
    "SET client_encoding = 'LATIN1'",
    'SET default_transaction_read_only = on',
    "SET default_transaction_isolation = 'serializable'",
    "SET session_replication_role = 'replica'",
    "SET work_mem = '64kB'",
    'SET enable_indexscan = off',
    'SET plan_cache_mode = force_custom_plan',
    'SET plan_cache_mode = force_generic_plan',
    'SET jit_above_cost = 0',
    'SET client_min_messages = debug1',
    'SET synchronous_commit = off',
    'SET row_security = off',
    "SET statement_timeout = '20ms'",
    "SET statement_timeout = '3ms'",
    "SET lock_timeout = '1ms'",
    'SET ROLE fuzz_all',
    'SET ROLE fuzz_none',
    'SET SESSION AUTHORIZATION fuzz_all',
    'LISTEN task_queue',
    "SET application_name = ''",
    "SET application_name = 'ü \" '' \\'",
    "SET xmlbinary = hex",
    'SET default_toast_compression = pglz',
    "SET jobqueue.max_workers = 0",
    "SET jobqueue.nosuch = 1",
    "SET idle_in_transaction_session_timeout = '1ms'",
    'DISCARD PLANS',
    'DISCARD TEMP',
    "SET extra_float_digits = -15",
]


class Statement:
    """One statement, and what the ledger must know about it."""

    def __init__(
        self,
        sql,
        name,
        before=(),
        after=(),
        copied=None,
        effect=None,
        detail=None,
        rollback=False,
        limit=None,
        in_block=False,
    ):
        self.sql = sql
        self.name = name          # for the coverage
        self.before = before      # utility statements around it
        self.after = after
        self.copied = copied      # data for COPY ... FROM STDIN
        self.effect = effect      # made, erased, deleted, touched, claimed; see Session.note
        self.detail = detail
        self.rollback = rollback  # must not be committed
        self.limit = limit        # a setting to run it under, for what may wait for long
        self.in_block = in_block  # needs a transaction block


class Function:
    def __init__(self, row):
        (self.name, self.kind, self.returns, self.set, names, self.types, defaults, self.signature) = row
        self.arguments = list(zip(names or ['a%d' % i for i in range(len(self.types))], self.types))
        self.required = len(self.types) - defaults
        self.trigger = self.returns == 'trigger'
        self.weight = WEIGHTS.get(self.name, 0.5 if self.trigger or self.name.startswith('_') else 1.5)
        self.makes = self.name.startswith('enqueue') and not self.trigger
        self.erases = bool(ERASERS.match(self.name))


def known_text(expression):
    """The value of a plain literal; None for anything else."""
    match = re.fullmatch(r"'((?:[^']|'')*)'::text", expression or '', re.S)
    return match and match[1].replace("''", "'")


class Catalog:
    """What there is to call and to write into, read from the server."""

    def __init__(self, cursor):
        cursor.execute(
            """SELECT p.proname, p.prokind, t.typname, p.proretset, p.proargnames[1:p.pronargs],
                ARRAY(SELECT a.typname::text FROM unnest(p.proargtypes) WITH ORDINALITY u(oid, n)
                    JOIN pg_type a ON a.oid = u.oid ORDER BY n),
                p.pronargdefaults, p.oid::regprocedure::text
            FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype
            WHERE p.pronamespace = 'jobqueue'::regnamespace ORDER BY p.oid::regprocedure::text"""
        )
        self.functions = [Function(row) for row in cursor.fetchall()]
        cursor.execute(
            """SELECT t.typname, t.typtype, e.typname,
                ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder),
                format_type(t.oid, NULL)
            FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
            WHERE t.typnamespace IN ('pg_catalog'::regnamespace, 'jobqueue'::regnamespace)"""
        )
        self.types = {row[0]: row[1:] for row in cursor.fetchall()}
        cursor.execute(
            """SELECT c.relname, c.relkind, array_agg(a.attname::text ORDER BY a.attnum),
                array_agg(t.typname::text ORDER BY a.attnum)
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            JOIN pg_type t ON t.oid = a.atttypid
            WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
            GROUP BY c.oid ORDER BY c.relname"""
        )
        relations = cursor.fetchall()
        self.readable = [row[0] for row in relations]
        tables = {row[0]: list(zip(row[2], row[3])) for row in relations if row[1] in 'rp'}
        self.task_columns = tables['tasks']
        self.leaves = [name for name in tables if name.startswith('tasks_')]
        self.small_tables = {
            name: columns for name, columns in tables.items() if name != 'tasks' and name not in self.leaves
        }


class Writer:
    """Makes the statements."""

    def __init__(self, catalog, values, pools):
        self.catalog, self.values, self.pools = catalog, values, pools
        self.weights = [function.weight for function in catalog.functions]

    def call(self, rng, claims=()):
        mode = rng.choices(['valid', 'one', 'wild'], [60, 22, 18])[0]
        return Call(rng, self.pools, mode, claims)

    def statement(self, rng, claims, superuser):
        kind = rng.random()
        if kind < 0.72:
            return self.function_call(rng, claims)
        makers = [
            (self.insert, 5),
            (self.copy, 3),
            (self.update, 4),
            (self.claim_by_hand, 4),
            (self.read, 5),
            (self.fuzz_table, 2),
            (self.inside_handler, 8),
            (self.delete, 2 if superuser else 0.3),
            (self.small_table, 3 if superuser else 0.5),
        ]
        if superuser:
            makers += [(self.truncate, 0.5), (self.maintain, 1), (self.trigger, 2)]
        return rng.choices([m for m, _ in makers], [w for _, w in makers])[0](rng, superuser)

    # Functions

    def arguments(self, call, function):
        """[(name, type, expression or None where it is left out)]"""
        rng = call.rng
        if call.mode == 'one' and function.arguments:
            call.spoil = rng.choice(function.arguments)[0]
        given = []
        for n, (name, type_name) in enumerate(function.arguments):
            left_out = (
                n >= function.required and rng.random() < (0.2 if call.mode == 'wild' else 0.6) and name != call.spoil
            )
            expression = self.values.value(call, type_name, name)
            given.append((name, type_name, None if left_out else expression))
        if function.makes and rng.random() < 0.1:
            given = [
                (name, type_name, "'bin'::text" if name == 'queue' else expression)
                for name, type_name, expression in given
            ]
        if function.erases and (rng.random() < 0.85 or call.mode != 'wild'):
            given = [
                (name, type_name, "'bin'::text" if name == 'queue' else expression)
                for name, type_name, expression in given
            ]
        if function.name in WAITERS and rng.random() < 0.8:
            given = [
                (name, type_name, "'100 ms'::interval" if name == 'timeout' else expression)
                for name, type_name, expression in given
            ]
        return given

    @staticmethod
    def listed(given, rng):
        """Positional as long as nothing was left out, then by name."""
        cut = next((n for n, one in enumerate(given) if one[2] is None), len(given))
        if cut:
            cut = rng.choice([cut, cut, rng.randint(0, cut)])
        return ', '.join(
            ['%s' % one[2] for one in given[:cut]]
            + ['"%s" => %s' % (one[0], one[2]) for one in given[cut:] if one[2] is not None]
        )

    def function_call(self, rng, claims, plain=False):
        function = rng.choices(self.catalog.functions, self.weights)[0]
        call = self.call(rng, claims)
        given = self.arguments(call, function)
        listed = self.listed(given, rng)
        target = 'jobqueue."%s"(%s)' % (function.name, listed)
        effect = detail = None
        rollback = False
        if function.makes:
            of = {name: known_text(expression) for name, _, expression in given}
            keyed = (
                any('unique_key' in name and expression for name, _, expression in given) or 'unique' in function.name
            )
            effect, detail = 'made', (of.get('queue'), keyed)
        elif function.erases:
            effect = 'erased'
            rollback = ('queue', 'text', "'bin'::text") not in given
        elif function.returns == 'tasks' and function.set and 'claim' in function.name:
            effect = 'claimed'
        options = {
            'effect': effect,
            'detail': detail,
            'rollback': rollback,
            'limit': "statement_timeout = '200ms'" if function.name in WAITERS else None,
        }
        if function.kind == 'p':
            return Statement('CALL ' + target, function.signature, **options)
        draw = rng.random()
        if plain or function.erases or draw < 0.45:
            from_clause = function.returns in ('record', 'tasks') and rng.random() < 0.9 or rng.random() < 0.3
            if effect == 'claimed':
                return Statement(
                    'SELECT c.id, c.attempts, pg_column_size(c) FROM %s c' % target, function.signature, **options
                )
            return Statement(('SELECT * FROM ' if from_clause else 'SELECT ') + target, function.signature, **options)
        passed = [one for one in given if one[2] is not None]
        variables = ['a%d' % n for n in range(len(passed))]
        by_name = lambda names: 'jobqueue."%s"(%s)' % (
            function.name,
            ', '.join('"%s" => %s' % (one[0], name) for one, name in zip(passed, names)),
        )
        if draw < 0.58 and passed:
            name = 'p%d' % rng.randrange(10**9)
            prepare = 'PREPARE %s (%s) AS SELECT %s' % (name, ', '.join(self.values.written(one[1]) for one in passed),
                                                        by_name(['$%d' % (n + 1) for n in range(len(passed))]))
            execute = 'EXECUTE %s (%s)' % (name, ', '.join(one[2] for one in passed))
            return Statement(
                execute,
                function.signature,
                before=[prepare] + [execute] * rng.choice([0, 0, 0, 6]) * (effect is None),
                after=['DEALLOCATE ' + name],
                **options
            )
        if draw < 0.72 and not function.trigger:
            # In PL/pgSQL arrays are expanded objects, and a handled error is a subtransaction.
            declared = ''.join(
                '%s %s := %s; ' % (name, self.values.written(one[1]), one[2]) for one, name in zip(passed, variables)
            )
            caught = rng.random() < 0.6
            return Statement(
                'DO $fuzz$ DECLARE %s BEGIN FOR i IN 1 .. %d LOOP BEGIN PERFORM %s; %sEND; END LOOP; END $fuzz$'
                % (
                    declared,
                    rng.randint(1, 3),
                    by_name(variables),
                    "EXCEPTION WHEN OTHERS THEN IF SQLSTATE LIKE 'XX%' THEN RAISE; END IF; " if caught else '',
                ),
                function.signature + (' (caught)' if caught else ''),
                limit=options['limit'],
            )
        if draw < 0.82 and passed:
            rows = [', '.join(one[2] for one in passed)]
            second = self.arguments(self.call(rng, claims), function)
            rows.append(
                ', '.join(
                    again[2] or 'NULL::' + self.values.written(again[1])
                    for one, again in zip(given, second)
                    if one[2] is not None
                )
            )
            return Statement(
                'SELECT %s FROM (VALUES %s) v(%s)'
                % (
                    by_name(['v.' + name for name in variables]),
                    ', '.join('(%s)' % row for row in rows),
                    ', '.join(variables),
                ),
                function.signature,
                **dict(options, effect=None)
            )
        if draw < 0.88:
            name = 'c%d' % rng.randrange(10**9)
            return Statement(
                'FETCH %s FROM %s' % (rng.choice(['1', '2', 'ALL']), name),
                function.signature,
                before=[
                    'DECLARE %s %sCURSOR %sFOR SELECT %s%s'
                    % (
                        name,
                        rng.choice(['', 'SCROLL ', 'NO SCROLL ']),
                        rng.choice(['', '', 'WITH HOLD ']),
                        target,
                        rng.choice(['', ' FROM generate_series(1, 3)']),
                    )
                ],
                after=rng.choice([[], ['FETCH PRIOR FROM ' + name], ['CLOSE ' + name]]),
                in_block=True,
                **options
            )
        if draw < 0.93:
            return Statement(
                'SELECT x.* FROM generate_series(1, 3) g, LATERAL %s x LIMIT %d' % (target, rng.randint(0, 2)),
                function.signature,
                **dict(options, effect='made' if function.makes else None)
            )
        if draw < 0.97:
            return Statement(
                'EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM %s x' % target,
                function.signature,
                **dict(options, effect=None)
            )
        return Statement(
            'COPY (SELECT %s) TO STDOUT' % target, function.signature, copied='', **dict(options, effect=None)
        )

    def inside_handler(self, rng, superuser):
        """A task whose handler does what we would have done."""
        inner = self.function_call(rng, (), plain=True)
        while inner.effect == 'erased' or inner.limit:
            inner = self.function_call(rng, (), plain=True)
        sql = inner.sql.encode('utf-8', 'replace').decode()
        return Statement(
            "SELECT jobqueue.enqueue(%s, jsonb_build_object('sql', %s), priority => 0)"
            % (literal(rng.choice(['runs_sql', 'runs_sql_and_goes_on', 'runs_sql_as_superuser'])), literal(sql)),
            '(in a handler) ' + inner.name,
            effect='made',
            detail=(None, False),
        )

    # Plain SQL on the tables

    def columns(self, rng, columns, least=1, without=()):
        call = self.call(rng)
        usable = [column for column in columns if column[0] not in without]
        chosen = [column for column in usable if rng.random() < (0.5 if call.mode == 'wild' else 0.2)]
        while len(chosen) < least:
            chosen.append(rng.choice([column for column in usable if column not in chosen]))
        if call.mode == 'one' and chosen:
            call.spoil = rng.choice(chosen)[0]
        return [(name, self.values.value(call, type_name, name)) for name, type_name in chosen]

    def allowed(self, rng, superuser, names):
        """The columns that a role with the rights may give; all of them for a superuser, and now and then for
        anybody."""
        if rng.random() < (0.5 if superuser else 0.05):
            return self.catalog.task_columns
        return [column for column in self.catalog.task_columns if column[0] in names]

    def insert(self, rng, superuser):
        allowed = self.allowed(rng, superuser, ('payload', 'queue', 'priority', 'run_at', 'max_attempts', 'metadata'))
        row = self.columns(rng, allowed, without=('type',) if rng.random() < 0.1 else ('type', 'id', 'slot'))
        names = ['type'] + [name for name, _ in row]
        kind = literal(rng.choice(WORDS['type'] + ODD_TEXTS if rng.random() < 0.1 else WORDS['type']))
        values = ', '.join([kind] + [expression for _, expression in row])
        source = rng.choice(
            ['VALUES (' + values + ')'] * 2
            + [
                'SELECT %s FROM generate_series(1, %d)'
                % (values, rng.choice([0, 2, 2 if 'repeat(' in values or 'kept' in values else 200]))
            ]
        )
        table = rng.choice(['tasks'] * 12 + self.catalog.leaves * superuser)
        effect = 'touched' if 'id' in names else 'made' if table == 'tasks' else None
        return Statement(
            'INSERT INTO jobqueue.%s (%s) %s RETURNING id' % (table, ', '.join(names), source),
            'INSERT',
            effect=effect,
            detail=(None, 'unique_key' in names),
        )

    def copy(self, rng, superuser):
        names = ['type'] + [
            name for name in ('payload', 'queue', 'priority', 'run_at', 'metadata') if rng.random() < 0.4
        ]
        good = {
            'type': WORDS['type'],
            'payload': ['{}', '{"a": 1}', '[1, 2]'],
            'queue': ['default', 'q1'],
            'priority': ['0', '5'],
            'run_at': ['2020-01-01', 'infinity'],
            'metadata': ['{}', '\\N'],
        }
        bad = ['', '\\N', '\\', '\\x', 'x', '"\\\\u0000"', '\udcff', '99999', 'ü', 'a' * 70, '\\.', '{', 'a\tb']
        spoilt = rng.random() < 0.3
        lines = [
            '\t'.join(rng.choice(bad) if spoilt and rng.random() < 0.2 else rng.choice(good[name]) for name in names)
            for _ in range(rng.choice([0, 1, 5, 300]))
        ]
        form = rng.choice(
            [''] * 6 + [" WITH (FORMAT csv, DELIMITER E'\\t')", ' WITH (FORMAT binary)', ' WITH (FREEZE)']
        )
        return Statement(
            'COPY jobqueue.tasks (%s) FROM STDIN%s' % (', '.join(names), form),
            'COPY',
            copied=''.join(line + '\n' for line in lines),
        )

    def update(self, rng, superuser):
        row = self.columns(
            rng,
            self.allowed(rng, superuser, ('status', 'updated_at', 'processed_at')),
            without=() if rng.random() < 0.1 else ('id', 'slot'),
        )
        if rng.random() < 0.5:
            row = [('status', literal(rng.choice(WORDS['status'])))] + [one for one in row if one[0] != 'status']
        table = rng.choice(['tasks'] * 6 + self.catalog.leaves * superuser)
        task = self.call(rng).tasks[0]
        where = rng.choice(
            [
                'id = %d' % task[0],
                'id = %d' % task[0],
                "id IN (SELECT id FROM jobqueue.tasks WHERE status = %s ORDER BY id LIMIT %d)"
                % (literal(rng.choice(WORDS['status'])), rng.choice([1, 20])),
            ]
        )
        return Statement(
            'WITH old AS (SELECT id FROM jobqueue.{0} WHERE {1}) UPDATE jobqueue.{0} t SET {2} FROM old WHERE t.id ='
            ' old.id RETURNING old.id, t.id'.format(table, where, ', '.join('%s = %s' % one for one in row)),
            'UPDATE',
            effect='touched' if any(name in ('id', 'slot') for name, _ in row) else None,
        )

    def delete(self, rng, superuser):
        table = rng.choice(['tasks'] * 6 + self.catalog.leaves * superuser)
        where = rng.choice(
            [
                'id = %d' % self.call(rng).tasks[0][0],
                "id IN (SELECT id FROM jobqueue.tasks WHERE status = %s LIMIT 3 %s)"
                % (literal(rng.choice(WORDS['status'])), rng.choice(['', 'FOR UPDATE SKIP LOCKED'])),
            ]
        )
        return Statement('DELETE FROM jobqueue.%s WHERE %s RETURNING id' % (table, where), 'DELETE', effect='deleted')

    def claim_by_hand(self, rng, superuser):
        """As any article about queues in PostgreSQL does it."""
        return Statement(
            "UPDATE jobqueue.tasks SET status = 'processing', processed_at = now() WHERE id = (SELECT id FROM"
            " jobqueue.tasks WHERE status = 'pending' %sORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING"
            " id, attempts"
            % rng.choice(['', "AND queue = 'q1' "]),
            'UPDATE (claim by hand)',
            effect='claimed',
        )

    def read(self, rng, superuser):
        table = rng.choice(self.catalog.readable + ['tasks', 'queue_status'] * 15 * (not superuser))
        return Statement(
            rng.choice(
                [
                    'SELECT count(*) FROM jobqueue.%s',
                    'SELECT 1 FROM jobqueue.%s LIMIT 1 FOR UPDATE',
                    'SELECT left(x::text, 100) FROM jobqueue.%s x LIMIT 20',
                    'SELECT * FROM jobqueue.%s LIMIT 1',
                ]
            )
            % table,
            'SELECT',
        )

    def small_table(self, rng, superuser):
        name = rng.choice(sorted(self.catalog.small_tables))
        columns = self.catalog.small_tables[name]
        row = self.columns(rng, columns, least=rng.randint(1, len(columns)))
        draw = rng.random()
        if draw < 0.45:
            sql = 'INSERT INTO jobqueue.%s (%s) VALUES (%s)' % (
                name,
                ', '.join(one[0] for one in row),
                ', '.join(one[1] for one in row),
            )
        elif draw < 0.85:
            sql = 'UPDATE jobqueue.%s SET %s WHERE random() < 0.3' % (
                name,
                ', '.join('%s = %s' % one for one in row[:2]),
            )
        else:
            sql = 'DELETE FROM jobqueue.%s WHERE random() < 0.1' % name
        return Statement(sql, 'plain SQL on ' + name, rollback=name in ROLLED_BACK_TABLES)

    def fuzz_table(self, rng, superuser):
        """Fires the triggers that trigger() made."""
        table = rng.choice(['watched', 'bare'])
        return Statement(
            (
                rng.choice(
                    ['INSERT INTO fuzz.%s SELECT FROM generate_series(1, 2)', 'DELETE FROM fuzz.%s', 'TRUNCATE fuzz.%s']
                )
                % table
                if rng.random() < 0.6
                else rng.choice(
                    [
                        "INSERT INTO fuzz.watched VALUES ('1', 2, 'pending', 'q1', '3', 'x', 5, 'y', 6)",
                        "UPDATE fuzz.watched SET status = 'completed', type = type + 1",
                        "UPDATE fuzz.watched SET status = 'pending'",
                        "INSERT INTO fuzz.bare VALUES (1, '{}', '{a,NULL}')",
                        "UPDATE fuzz.bare SET a = a + 1",
                        (
                            "MERGE INTO fuzz.bare USING (VALUES (1), (2)) v(a) ON bare.a = v.a WHEN MATCHED THEN UPDATE"
                            " SET b = '[]' WHEN NOT MATCHED THEN INSERT VALUES (v.a)"
                        ),
                    ]
                )
            ),
            'table with triggers',
        )

    def trigger(self, rng, superuser):
        function = rng.choice([f for f in self.catalog.functions if f.trigger])
        row = rng.random() < 0.6
        when = rng.choice(['BEFORE', 'AFTER'])
        event = rng.choice(
            ['INSERT', 'UPDATE', 'DELETE', 'INSERT OR UPDATE OR DELETE', 'TRUNCATE' if not row else 'UPDATE OF a']
        )
        table = rng.choice(['fuzz.watched', 'fuzz.bare', 'fuzz.bare'])
        arguments = rng.choice(["'ok'", "'ok'", '', "''", "'ok', 'x'", "'type \"ü\"'"])
        name = 'trigger_%d' % rng.randint(1, 3)
        return Statement(
            'CREATE OR REPLACE TRIGGER %s %s %s ON %s FOR EACH %s EXECUTE FUNCTION jobqueue.%s(%s)'
            % (name, when, event, table, 'ROW' if row else 'STATEMENT', function.name, arguments),
            'CREATE TRIGGER ' + function.name,
            limit="lock_timeout = '50ms'",
        )

    def truncate(self, rng, superuser):
        return Statement(
            'TRUNCATE jobqueue.%s' % rng.choice(['tasks'] + self.catalog.leaves),
            'TRUNCATE',
            rollback=True,
            limit="lock_timeout = '50ms'",
        )

    def maintain(self, rng, superuser):
        return Statement(
            rng.choice(
                [
                    'ANALYZE jobqueue.tasks',
                    'REINDEX TABLE jobqueue.tasks_live',
                    'REINDEX TABLE jobqueue.tasks_failed',
                    'ALTER TABLE jobqueue.tasks_live SET (fillfactor = 90)',
                    'CLUSTER jobqueue.tasks_live USING tasks_live_pkey',
                    'VACUUM jobqueue.tasks_live',
                    'VACUUM FULL jobqueue.tasks_failed',
                    'CHECKPOINT',
                ]
            ),
            'maintenance',
            limit="lock_timeout = '50ms'",
        )
