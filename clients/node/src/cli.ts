#!/usr/bin/env node
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { Runnable } from './app.js';
import { describe } from './errors.js';
import { Worker } from './worker.js';

const usage = `Usage: jobqueue worker MODULE [OPTION...]

Runs the handlers of the App that MODULE exports, as its default or as "app". MODULE is a file or a package.

  --queue NAME            take tasks from this queue ("default")
  --all-queues            take tasks from all queues in turn
  --concurrency N         how many handlers run at once (10)
  --lease SECONDS         for how long a task is claimed (300); claims are extended while handlers run
  --poll-interval SECONDS how often it looks for tasks that it has not heard of (30)
  --grace SECONDS         how long handlers may go on when it is told to stop (8)
  --no-listen             only look, do not LISTEN: for a pooler in transaction mode
  --dsn URL               the server; without it, PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE say where it is

SIGTERM and SIGINT tell it to stop: it lets handlers end, and gives back what is not done. A second signal ends it
at once.
`;

/** What is wrong with the command line: exit code 2. */
class Misuse extends Error {}

const isRunnable = (value: any): value is Runnable =>
	typeof value === 'object' && value !== null && typeof value.run === 'function' && Array.isArray(value.types);

async function load(name: string): Promise<Runnable> {
	const path = resolve(name);
	let module: Record<string, unknown>;
	try {
		const file = existsSync(path) || /^[./]/.test(name)
			? path
			: createRequire(`${process.cwd()}/`).resolve(name);
		module = await import(pathToFileURL(file).href);
	} catch (error) {
		throw new Misuse(`cannot load ${name}: ${describe(error)}`);
	}
	for (const candidate of [module['default'], module['app']]) if (isRunnable(candidate)) return candidate;
	const exported = Object.keys(module).join(', ') || 'nothing';
	throw new Misuse(`${name} has no App as its default export or as "app"; it exports ${exported}`);
}

function parse() {
	try {
		return parseArgs({
			allowPositionals: true,
			options: {
				queue: { type: 'string' },
				'all-queues': { type: 'boolean' },
				concurrency: { type: 'string' },
				lease: { type: 'string' },
				'poll-interval': { type: 'string' },
				grace: { type: 'string' },
				'no-listen': { type: 'boolean' },
				dsn: { type: 'string' },
				help: { type: 'boolean', short: 'h' },
			},
		});
	} catch (error) {
		throw new Misuse(describe(error));
	}
}

function number(option: string, text: string | undefined, factor = 1): number | undefined {
	if (text === undefined) return undefined;
	const value = Number(text);
	if (text.trim() === '' || !Number.isFinite(value)) throw new Misuse(`--${option}: ${text} is not a number`);
	return value * factor;
}

async function main(): Promise<void> {
	const { values, positionals } = parse();
	if (values.help) {
		process.stdout.write(usage);
		return;
	}
	const [command, name, ...rest] = positionals;
	if (command !== 'worker' || name === undefined || rest.length > 0) throw new Misuse(usage.trimEnd());
	if (values.queue !== undefined && values['all-queues'])
		throw new Misuse('--queue and --all-queues exclude each other');
	const options = {
		queue: values['all-queues'] ? null : values.queue,
		concurrency: number('concurrency', values.concurrency),
		lease: number('lease', values.lease, 1000),
		pollInterval: number('poll-interval', values['poll-interval'], 1000),
		grace: number('grace', values.grace, 1000),
		listen: !values['no-listen'],
		log: (message: string) => console.error(`${new Date().toISOString()} ${message}`),
	};
	const app = await load(name);
	let worker: Worker;
	try {
		worker = new Worker(app, values.dsn, options);
	} catch (error) {
		throw new Misuse(describe(error));
	}
	const signals = ['SIGTERM', 'SIGINT'] as const;
	const stop = () => {
		// without a listener, the next signal has its usual effect
		for (const signal of signals) process.off(signal, stop);
		worker.stop();
	};
	for (const signal of signals) process.on(signal, stop);
	await worker.run();
}

try {
	await main();
	process.exit(0); // whatever handlers of tasks that were given back are still doing
} catch (error) {
	console.error(error instanceof Misuse ? `jobqueue: ${error.message}` : error);
	process.exit(error instanceof Misuse ? 2 : 1);
}
