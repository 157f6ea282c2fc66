import assert from 'node:assert/strict';
import test from 'node:test';
import { enqueue } from 'jobqueue-pg';
import { newQueue, pgCtl, pool, setUp, sleep, sql, until, WorkerProcess } from './support.js';

setUp();

const seconds = Number(process.env['CLIENTS_SECONDS'] ?? 20);
const rate = 100; // tasks a second
const stops = Math.max(4, Math.round(seconds / 10));

// Each enqueue and its note are one commit: after an error the notes say which tasks there must be.
async function produce(queue: string, until: number): Promise<void> {
	const start = Date.now();
	for (let n = 0; Date.now() < until; n++) {
		const wait = start + (n * 1000) / rate - Date.now();
		if (wait > 0) await sleep(wait);
		try {
			const client = await pool.connect();
			let broken = true;
			try {
				await client.query('BEGIN');
				await client.query('INSERT INTO done VALUES ($1)', [n]);
				await enqueue(client, 'record', { n }, { queue });
				await client.query('COMMIT');
				broken = false;
			} finally {
				client.release(broken);
			}
		} catch {
			await sleep(50); // the server restarts
		}
	}
}

test(`C21 ${rate} tasks a second for ${seconds} s, with stops of the worker and restarts of the server`, async () => {
	const queue = newQueue();
	await sql('DELETE FROM done');
	const end = Date.now() + seconds * 1000;
	const producer = produce(queue, end);
	// a task that waited for the end of a lease would be late by an hour
	const start = () => WorkerProcess.withApp(queue, '--lease', '3600', '--poll-interval', '1');
	let worker = start();
	for (let stop = 1; stop <= stops; stop++) {
		await sleep(Math.max(0, end - Date.now()) / (stops - stop + 1) / 2);
		if (stop === Math.ceil(stops / 3) || stop === Math.ceil((2 * stops) / 3)) pgCtl('restart', '-m', 'fast');
		await sleep(Math.max(0, end - Date.now()) / (stops - stop + 1) / 2);
		await worker.says(' connected');
		await worker.stops(stop % 2 ? 'SIGTERM' : 'SIGINT');
		const left = await sql(`SELECT id FROM jobqueue.tasks WHERE queue = $1 AND status = 'processing'`, [queue]);
		assert.deepEqual(left, [], `after stop ${stop}: ${worker.output}`);
		worker = start();
	}
	await producer;
	const open = `SELECT FROM jobqueue.tasks WHERE queue = $1 AND status <> 'completed'`;
	await until('all are done', async () => (await sql(open, [queue])).length === 0);
	await worker.stops('SIGTERM');

	const tasks = await sql(`SELECT (result->>'n')::integer AS n FROM jobqueue.tasks
		WHERE queue = $1 AND status = 'completed' AND failures IS NULL ORDER BY n`, [queue]);
	const notes = await sql('SELECT n FROM done ORDER BY n');
	assert.deepEqual(tasks, notes);
	assert.ok(tasks.length > 0.2 * rate * seconds, `${tasks.length} tasks`);
	console.log(`${tasks.length} tasks, ${stops} stops, 2 restarts`);
});
