import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { App, enqueue } from 'jobqueue-pg';
import { Proxy } from './proxy.js';
import {
	asServerUser, controlServer, gate, newQueue, ownedByServerUser, pgCtl, pool, setUp, sleep, startWorker, taskRow,
	until,
	untilStatus, withWorker, workerRole,
} from './support.js';

setUp();

async function withProxy(run: (proxy: Proxy) => Promise<void>): Promise<void> {
	const proxy = await Proxy.start();
	try {
		await run(proxy);
	} finally {
		proxy.stop();
	}
}

test('C18 the server restarts: what has ended meanwhile is reported, and not run again', async () => {
	const queue = newQueue();
	const gates = [gate(), gate()];
	const attempts: number[] = [];
	const app = new App<{ hold: number; after: number }>();
	app.handler('hold', async (task) => {
		attempts.push(task.attempt);
		await gates[task.payload]!.opened;
		return task.payload;
	});
	app.handler('after', () => 'heard of');
	await withWorker(app, { queue, pollInterval: 3_600_000 }, async ({ log }) => {
		const ids = [await enqueue(pool, 'hold', 0, { queue }), await enqueue(pool, 'hold', 1, { queue })];
		for (const id of ids) await untilStatus(id, 'processing');
		pgCtl('stop', '-m', 'fast');
		await until('it knows', () => log.some((line) => /terminat|ENOENT|connect/.test(line) && line !== 'connected'));
		gates[0]!.open(); // ends while there is no server
		await sleep(1500); // some attempts in vain
		pgCtl('start');
		await untilStatus(ids[0]!, 'completed');
		gates[1]!.open(); // ends afterwards
		await untilStatus(ids[1]!, 'completed');
		for (const [n, id] of ids.entries()) {
			const row = await taskRow(id);
			assert.deepEqual([row.attempts, row.result, row.failures], [1, n, null]);
		}
		assert.deepEqual(attempts, [1, 1]);
		await until('it listens again', () => log.filter((line) => line === 'listening').length === 2);
		for (let n = 0; n < 3; n++) await untilStatus(await enqueue(pool, 'after', n, { queue }), 'completed');
	});
});

test('C18 it connects again with a growing delay, and says once what is wrong', async () => {
	await withProxy(async (proxy) => {
		const queue = newQueue();
		const app = new App().handler('hello', () => 'hello');
		const options = { queue, listen: false, pollInterval: 200 };
		await withWorker(app, options, async ({ log }) => {
			await until('it is connected', () => log.includes('connected'));
			const id = await enqueue(pool, 'hello', {}, { queue });
			await untilStatus(id, 'completed');
			proxy.refuses = true;
			proxy.times.length = 0;
			proxy.cut();
			await until('five attempts', () => proxy.times.length === 5);
			// a quarter of a second, a half and so on, less a quarter by chance
			for (let n = 0; n < 4; n++) {
				const gap = proxy.times[n + 1]! - proxy.times[n]!;
				assert.ok(gap > 0.7 * 500 * 2 ** n, `attempt ${n + 2} after ${gap} ms`);
			}
			proxy.refuses = false;
			const next = await enqueue(pool, 'hello', {}, { queue });
			await untilStatus(next, 'completed');
			await until('it says so', () => log.at(-1) === 'connected');
			assert.ok(log.length <= 4, log.join('\n'));
		}, proxy.address);
	});
});

test('C18 an answer is lost: the tasks that it brought run at once, and do not wait for the lease', async () => {
	await withProxy(async (proxy) => {
		const queue = newQueue();
		const attempts: number[] = [];
		const app = new App().handler('work', (task) => {
			attempts.push(task.attempt);
			return 'done';
		});
		await withWorker(app, { queue, listen: false, pollInterval: 200, lease: 3_600_000 }, async ({ log }) => {
			await until('it is connected', () => log.includes('connected'));
			proxy.loses = 'the answer with this text';
			const id = await enqueue(pool, 'work', { text: proxy.loses }, { queue });
			const row = await untilStatus(id, 'completed');
			assert.equal(proxy.lost, 1);
			assert.deepEqual([row.attempts, attempts], [1, [1]]);
		}, proxy.address);
	});
});

test('C18 an answer is lost while the worker stops: its tasks are given back', async () => {
	await withProxy(async (proxy) => {
		const queue = newQueue();
		const app = new App().handler('work', () => 'done');
		const started = startWorker(app, { queue, listen: false, pollInterval: 200, lease: 3_600_000 }, proxy.address);
		await until('it is connected', () => started.log.includes('connected'));
		proxy.loses = 'the answer with this text';
		proxy.onLoss = () => {
			proxy.refuses = true;
			started.worker.stop();
			setTimeout(() => (proxy.refuses = false), 1000);
		};
		const id = await enqueue(pool, 'work', { text: proxy.loses }, { queue });
		await started.stopped;
		assert.equal(proxy.lost, 1);
		assert.equal((await taskRow(id)).status, 'pending');
	});
});

test('C20 a standby is promoted: the worker goes on at the new primary', async () => {
	const home = ownedByServerUser();
	const [one, two] = [join(home, 'one'), join(home, 'two')];
	const port = { one: '5501', two: '5502' };
	const admin = (server: keyof typeof port, text: string) =>
		asServerUser('psql', '-XqAt', '-h', home, '-p', port[server], '-U', 'postgres', '-c', text, 'postgres').trim();
	try {
		asServerUser('initdb', '-D', one, '-U', 'postgres', '-A', 'trust', '-N');
		asServerUser('sh', '-c', `cat >>"$0" <<-CONF
			listen_addresses = ''
			unix_socket_directories = '${home}'
			shared_preload_libraries = 'jobqueue'
			fsync = off
			max_worker_processes = 16
			CONF`, join(one, 'postgresql.conf'));
		controlServer(one, join(home, 'log.one'), 'start', '-o', `-p ${port.one}`);
		admin('one', 'CREATE EXTENSION jobqueue');
		admin('one', `CREATE ROLE ${workerRole} LOGIN`);
		admin('one', `SELECT jobqueue.grant_access('${workerRole}', 'consumer')`);
		asServerUser('pg_basebackup', '-D', two, '-R', '-c', 'fast', '-h', home, '-p', port.one, '-U', 'postgres');
		controlServer(two, join(home, 'log.two'), 'start', '-o', `-p ${port.two}`);

		const { opened, open } = gate();
		const app = new App<{ hold: object; quick: object }>();
		app.handler('hold', async () => {
			await opened;
			return 'held';
		});
		app.handler('quick', () => 'quick');
		const hosts = new URLSearchParams({ host: `${home},${home}`, port: `${port.two},${port.one}` });
		const url = `postgresql://${workerRole}@/postgres?${hosts}`;
		await withWorker(app, {}, async ({ log }) => {
			await until('it is connected', () => log.includes('connected'));
			const id = admin('one', `SELECT jobqueue.enqueue('hold')`);
			const status = (server: keyof typeof port, task: string) =>
				admin(server, `SELECT status || ' ' || attempts FROM jobqueue.tasks WHERE id = ${task}`);
			await until('the task runs', () => status('one', id) === 'processing 1');
			await until('the standby knows', () => status('two', id) === 'processing 1');
			controlServer(one, join(home, 'log.one'), 'stop', '-m', 'immediate');
			controlServer(two, join(home, 'log.two'), 'promote');
			await until('it is connected again', () => log.filter((line) => line === 'connected').length === 2);
			open();
			await until('the task is completed', () => status('two', id) === 'completed 1');
			const next = admin('two', `SELECT jobqueue.enqueue('quick')`);
			await until('the next one, too', () => status('two', next) === 'completed 1');
		}, url);
	} finally {
		for (const data of [one, two])
			asServerUser('sh', '-c', 'pg_ctl -D "$0" -m immediate -w stop || true', data);
		asServerUser('rm', '-rf', home);
	}
});

const find = 'PATH=$PATH:/usr/sbin; command -v pgbouncer';
const pgbouncer = spawnSync('sh', ['-c', find], { encoding: 'utf8' }).stdout.trim();

test('C12 behind a pooler in transaction mode', { skip: !pgbouncer && 'pgbouncer is not installed' }, async () => {
	const home = ownedByServerUser();
	const { PGHOST, PGPORT, PGDATABASE } = process.env;
	asServerUser('sh', '-c', `
		cat >"$0/ini" <<-INI
			[databases]
			${PGDATABASE} = host=${PGHOST} port=${PGPORT}
			[pgbouncer]
			listen_port = 6432
			unix_socket_dir = $0
			auth_type = trust
			auth_file = $0/users
			pool_mode = transaction
			default_pool_size = 2
			logfile = $0/log
			pidfile = $0/pid
			INI
		echo '"${workerRole}" ""' >"$0/users"`, home);
	asServerUser(pgbouncer, '-d', join(home, 'ini'));
	try {
		const queue = newQueue();
		const app = new App().handler('hello', () => 'hello');
		await withWorker(app, { queue, pollInterval: 500 }, async ({ log }) => {
			await until('it is connected', () => log.includes('connected') && log.includes('listening'));
			for (let n = 0; n < 5; n++) {
				const row = await untilStatus(await enqueue(pool, 'hello', n, { queue }), 'completed');
				assert.equal(row.attempts, 1);
			}
		}, { host: home, port: 6432 });
	} finally {
		asServerUser('sh', '-c', 'kill "$(cat "$0/pid")"', home);
		asServerUser('rm', '-rf', home);
	}
});
