import assert from 'node:assert/strict';
import test from 'node:test';
import { App, enqueue, enqueueMany, enqueueUnique, waitFor } from 'jobqueue-pg';
import { runTasks } from 'jobqueue-pg/testing';
import pg from 'pg';
import { inTransaction, newQueue, pool, setUp, sql, taskRow, untilStatus, withWorker } from './support.js';

setUp();

test('C1 a task exists if the transaction of the caller commits', async () => {
	const queue = newQueue();
	const client = await pool.connect();
	try {
		await client.query('BEGIN');
		const undone = await enqueue(client, 'mail', { to: 'ann' }, { queue });
		assert.equal(await taskRow(undone), undefined);
		await client.query('ROLLBACK');
		assert.equal(await taskRow(undone), undefined);
		await client.query('BEGIN');
		const id = await enqueue(client, 'mail', { to: 'ann' }, { queue });
		await client.query('COMMIT');
		assert.equal((await taskRow(id)).status, 'pending');
	} finally {
		client.release();
	}
});

test('C1 an id above 2^53 is exact, whatever the parsers of the application do', async () => {
	const original = pg.types.getTypeParser(20);
	pg.types.setTypeParser(20, Number);
	try {
		// two neighbours: a number cannot tell them apart
		const ids = await enqueueMany(pool, 'mail', [1, 2, 3, 4], { queue: newQueue() });
		ids.push(await enqueue(pool, 'mail', 5, { queue: newQueue() }));
		ids.push((await enqueueUnique(pool, 'mail', 6, { uniqueKey: newQueue() })).id);
		assert.ok(ids.every((id) => typeof id === 'string' && BigInt(id) > 2n ** 53n), ids.join());
		assert.equal(new Set(ids).size, 6);
		const rows = await sql(
			'SELECT id::text AS id, payload FROM jobqueue.tasks WHERE id = ANY ($1) ORDER BY payload', [ids]);
		assert.deepEqual(rows.map(({ id }) => id), ids);
	} finally {
		pg.types.setTypeParser(20, original);
	}
});

test('C1 a worker, waitFor and complete use ids above 2^53', async () => {
	const queue = newQueue();
	const app = new App();
	app.handler('echo id', (task) => task.id);
	await withWorker(app, { queue }, async () => {
		const id = await enqueue(pool, 'echo id', {}, { queue });
		const task = await waitFor(pool, id, '60 seconds');
		assert.deepEqual([task?.id, task?.status, task?.result], [id, 'completed', id]);
	});
});

test('waitFor returns null when the time is over', async () => {
	const id = await enqueue(pool, 'nobody does it', {}, { queue: newQueue() });
	assert.equal(await waitFor(pool, id, 50), null);
});

test('C2 each option of enqueue', async () => {
	const queue = newQueue();
	const runAt = new Date(Date.now() + 3_600_000);
	await inTransaction(async (client) => {
		const parent = await enqueue(client, 'parent', {}, { queue });
		const id = await enqueue(client, 'child', { a: 1 }, {
			queue, priority: -7, runAt, maxAttempts: 3, timeout: '1 minute', uniqueKey: 'k', onConflict: 'error',
			uniqueScope: 'waiting', groupKey: 'g', metadata: ['m', null],
		});
		const { rows: [row] } = await client.query('SELECT * FROM jobqueue.tasks WHERE id = $1', [id]);
		const expected = {
			queue, priority: -7, run_at: runAt, max_attempts: 3, timeout: { minutes: 1 }, unique_key: 'k',
			unique_scope: 'waiting', group_key: 'g', metadata: ['m', null],
		};
		const got = Object.fromEntries(Object.keys(expected).map((column) => [column, row[column]]));
		assert.deepEqual({ ...got, timeout: { ...row.timeout } }, expected);

		const blocked = await enqueue(client, 'child', {}, { queue, after: [parent], onParentFailure: 'run' });
		const late = await enqueue(client, 'child', {}, { queue, delay: 90_000 });
		const later = await enqueue(client, 'child', {}, { queue, delay: '1 day' });
		const { rows } = await client.query(`SELECT id, status, (run_at - now())::text AS delay FROM jobqueue.tasks
			WHERE id = ANY ($1) ORDER BY id`, [[blocked, late, later]]);
		assert.deepEqual(rows.map(({ status }) => status), ['blocked', 'scheduled', 'scheduled']);
		assert.deepEqual([rows[1].delay.slice(0, 7), rows[2].delay.slice(0, 5)], ['00:01:3', '1 day']);

		const [first, second] = await enqueueMany(client, 'child', [{}, {}], {
			queue, priority: 5, runAt, maxAttempts: 2, timeout: 60_000, groupKey: 'g', metadata: 'm', after: [parent],
			onParentFailure: 'wait',
		});
		const { rows: [equal] } = await client.query(`SELECT count(DISTINCT to_jsonb(t) - 'id') AS n,
			min(priority) AS priority, min(max_attempts) AS attempts, min(group_key) AS group
			FROM jobqueue.tasks t WHERE id IN ($1, $2)`, [first, second]);
		assert.deepEqual(equal, { n: '1', priority: 5, attempts: 2, group: 'g' });

		const once = { queue, uniqueKey: 'period', uniqueFor: 3_600_000 };
		assert.equal((await enqueueUnique(client, 'child', {}, once)).isNew, true);
		assert.equal((await enqueueUnique(client, 'child', {}, once)).isNew, false);
		const { rows: [period] } = await client.query(
			'SELECT unique_scope FROM jobqueue.tasks WHERE unique_key = $1', ['period']);
		assert.equal(period.unique_scope, 'period');
		const both = { delay: 1000, runAt };
		await assert.rejects(enqueue(client, 'child', {}, both), { code: '22023' });
	});
});

test('C2 what is left out is the default of the server', async () => {
	await inTransaction(async (client) => {
		const ours = await enqueue(client, 'plain');
		const nothing = { queue: undefined, priority: undefined, delay: undefined };
		const explicit = await enqueue(client, 'plain', undefined, nothing);
		await client.query(`SELECT jobqueue.enqueue('plain')`);
		const { rows } = await client.query(
			`SELECT DISTINCT to_jsonb(t) - 'id' FROM jobqueue.tasks t WHERE type = 'plain' AND id >= $1`, [ours]);
		assert.equal(rows.length, 1);
		assert.notEqual(ours, explicit);
	});
});

test('C2 the options are the arguments of the server, and any other name is refused', async () => {
	const rows = await sql(`SELECT proname, unnest(proargnames) AS argument FROM pg_proc
		WHERE pronamespace = 'jobqueue'::regnamespace AND proname IN ('enqueue', 'enqueue_many', 'enqueue_unique')`);
	const functions: Record<string, (options: any) => Promise<unknown>> = {
		enqueue: (options) => enqueue(pool, 'x', {}, options),
		enqueue_many: (options) => enqueueMany(pool, 'x', [], options),
		enqueue_unique: (options) => enqueueUnique(pool, 'x', {}, { uniqueKey: newQueue(), ...options }),
	};
	const given = ['type', 'payload', 'payloads', 'id', 'is_new'];
	assert.ok(rows.length > 30);
	for (const { proname, argument } of rows.filter((row) => !given.includes(row.argument))) {
		const name = argument.replace(/_./g, (match: string) => match[1]!.toUpperCase());
		if (name !== 'uniqueKey') await functions[proname]!({ [name]: undefined });
	}
	await assert.rejects(functions['enqueue']!({ prioritaet: 1 }), /there is no option prioritaet/);
});

const payloads = [
	{ to: 'ann', list: [1, [2, { three: 3 }]], nothing: null }, [], [1, 'two', null], [[1, 2], [3, 4]], {}, '', 'text',
	'"quoted" \\ and $1 ? :x', 'Grüße, 世界, 🐘', 0, -1.5, 1e300, true, false, null,
];

test('C3 a payload comes back as it was given', async () => {
	const queue = newQueue();
	await inTransaction(async (client) => {
		for (const payload of payloads) await enqueue(client, 'echo', payload, { queue });
		await enqueueMany(client, 'echo', payloads, { queue });
		const got: unknown[] = [];
		const app = new App();
		app.handler('echo', (task) => {
			got.push(task.payload);
			return task.payload;
		});
		const rows = await runTasks(client, app, { queue });
		assert.deepEqual(got, [...payloads, ...payloads]);
		assert.deepEqual(rows.map(({ payload }) => payload), [...payloads, ...payloads]);
		assert.deepEqual(rows.map(({ result }) => result), [...payloads, ...payloads]);
		const { rows: types } = await client.query(`SELECT jsonb_typeof(payload) AS type, count(*)::int AS n
			FROM jobqueue.tasks WHERE queue = $1 GROUP BY 1 ORDER BY 1`, [queue]);
		assert.deepEqual(Object.fromEntries(types.map(({ type, n }) => [type, n / 2])),
			{ array: 3, boolean: 2, null: 1, number: 3, object: 2, string: 4 });
	});
});

test('C3 what has no JSON is refused, and nothing is sent', async () => {
	await assert.rejects(enqueue(pool, 'x', () => {}), TypeError);
	await assert.rejects(enqueue(pool, 'x', { n: 1n }), TypeError);
	await assert.rejects(enqueueMany(pool, 'x', [1, undefined]), TypeError);
});

test('C4 enqueueMany adds a task for each payload, and returns the ids in order', async () => {
	const queue = newQueue();
	const numbers = Array.from({ length: 1000 }, (_, n) => n);
	const ids = await enqueueMany(pool, 'mail', numbers, { queue });
	const rows = await sql('SELECT id::text AS id, payload FROM jobqueue.tasks WHERE queue = $1', [queue]);
	assert.equal(rows.length, 1000);
	const payloadOf = new Map(rows.map(({ id, payload }) => [id, payload]));
	assert.deepEqual(ids.map((id) => payloadOf.get(id)), numbers);
	assert.deepEqual(await enqueueMany(pool, 'mail', [], { queue }), []);
});

test('C5 enqueueUnique returns the id and whether the task is new', async () => {
	const options = { queue: newQueue(), uniqueKey: newQueue() };
	const first = await enqueueUnique(pool, 'sync', { n: 1 }, options);
	assert.equal(first.isNew, true);
	assert.deepEqual(await enqueueUnique(pool, 'sync', { n: 2 }, options), { id: first.id, isNew: false });
	assert.deepEqual((await untilStatus(first.id, 'pending')).payload, { n: 1 });
	await enqueueUnique(pool, 'sync', { n: 3 }, { ...options, onConflict: 'replace' });
	assert.deepEqual((await untilStatus(first.id, 'pending')).payload, { n: 3 });
});

test('C7 an error of the server is an error of the driver, with its SQLSTATE', async () => {
	const databaseError = (code: string) => (error: unknown) => {
		assert.ok(error instanceof pg.DatabaseError);
		assert.equal(error.code, code);
		return true;
	};
	await assert.rejects(enqueue(pool, '', {}), databaseError('22023'));
	await assert.rejects(enqueue(pool, 'x', 'a\0b'), databaseError('22P05'));
	await assert.rejects(enqueueMany(pool, 'x', [1], { priority: 40_000 }), databaseError('22003'));
	const key = { uniqueKey: newQueue(), onConflict: 'error' } as const;
	await enqueueUnique(pool, 'x', {}, key);
	await assert.rejects(enqueueUnique(pool, 'x', {}, key), databaseError('23505'));
	await assert.rejects(waitFor(pool, '9223372036854775807', 10), databaseError('22023'));
});
