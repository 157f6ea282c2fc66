import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { enqueue } from 'jobqueue-pg';
import { newQueue, packageRoot, pool, setUp, untilStatus, WorkerProcess } from './support.js';

setUp();

const directory = mkdtempSync(join(packageRoot, 'build/modules.'));
after(() => rmSync(directory, { recursive: true }));

function moduleFile(name: string, text: string): string {
	const path = join(directory, name);
	writeFileSync(path, text);
	return path;
}

async function refused(args: string[], message: RegExp): Promise<void> {
	const worker = new WorkerProcess(args);
	const { code } = await worker.ended;
	assert.equal(code, 2, worker.output);
	assert.match(worker.output, message);
}

test('C22 the command line starts a worker for the handlers of a module', async () => {
	const queue = newQueue();
	const id = await enqueue(pool, 'record', { n: 5 }, { queue });
	const worker = WorkerProcess.withApp(queue, '--concurrency', '3', '--no-listen', '--poll-interval', '0.2');
	assert.deepEqual((await untilStatus(id, 'completed')).result, { n: 5 });
	await worker.stops('SIGTERM');
	assert.match(worker.output, / connected\n.* stopping\n.* stopped\n$/);
});

test('C22 --dsn, --all-queues, and an App that is exported as "app"', async () => {
	const type = newQueue();
	const module = moduleFile('app.mjs', `
		import { App } from 'jobqueue-pg';
		export const app = new App().handler(${JSON.stringify(type)}, (task) => task.queue);`);
	const { PGHOST = '', PGPORT = '', PGUSER = '', PGDATABASE = '' } = process.env;
	const parameters = new URLSearchParams({ host: PGHOST, port: PGPORT });
	const dsn = `postgresql://${PGUSER}@/${PGDATABASE}?${parameters}`;
	const nowhere = { PGHOST: '/nonexistent', PGPORT: '1', PGUSER: 'nobody', PGDATABASE: 'none' };
	const worker = new WorkerProcess(['worker', module, '--all-queues', '--dsn', dsn], nowhere);
	const queue = newQueue();
	const id = await enqueue(pool, type, {}, { queue });
	assert.equal((await untilStatus(id, 'completed')).result, queue);
	await worker.stops('SIGINT');
});

test('C22 it says what is wrong, with exit code 2', async () => {
	await refused(['worker', './no_such_file.js'], /cannot load \.\/no_such_file\.js: .*no_such_file/);
	await refused(['worker', 'no-such-package'], /cannot load no-such-package: /);
	const broken = moduleFile('broken.mjs', 'throw new Error("out of order")');
	await refused(['worker', broken], /cannot load .*: out of order/);
	await refused(['worker', moduleFile('other.mjs', 'export const handlers = {};')], /it exports handlers/);
	await refused(['worker', moduleFile('empty.mjs', `
		import { App } from 'jobqueue-pg';
		export default new App();`)], /has no handlers/);
	await refused(['worker', './fixtures/app.js', '--concurrency', 'many'], /--concurrency: many is not a number/);
	await refused(['worker', './fixtures/app.js', '--concurrency', '0'], /concurrency must be/);
	await refused(['worker', './fixtures/app.js', '--colour'], /--colour/);
	await refused(['worker', './fixtures/app.js', '--dsn', 'host=here'], /a connection string is a URL/);
	await refused(['worker'], /Usage/);
	await refused(['work', './fixtures/app.js'], /Usage/);
});

test('C22 --help', async () => {
	const worker = new WorkerProcess(['--help']);
	assert.equal((await worker.ended).code, 0);
	assert.match(worker.output, /^Usage: jobqueue worker MODULE/);
});
