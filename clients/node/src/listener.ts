import type pg from 'pg';
import { Bell } from './bell.js';
import { connect, disconnect } from './connect.js';
import { Delay } from './delay.js';
import { describe } from './errors.js';

/** Hears of new tasks, on a connection of its own, from start() until stop(). */
export class Listener {
	readonly #bell = new Bell();
	readonly #delay = new Delay();
	#stopping = false;
	#said = '';

	/**
	 * `wake` is called for a task that may be in the queue, and each time when it has begun to listen, because of
	 * tasks that came before. Every `checkInterval` ms it looks whether the server is still there.
	 */
	constructor(
		readonly configs: pg.ClientConfig[],
		readonly queue: string | null,
		readonly checkInterval: number,
		readonly wake: () => void,
		readonly log: (message: string) => void,
	) {}

	stop(): void {
		this.#stopping = true;
		this.#bell.ring();
	}

	async run(): Promise<void> {
		while (!this.#stopping)
			try {
				await this.#listen();
			} catch (error) {
				this.#say(`cannot listen: ${describe(error)}`);
				if (!this.#stopping) await this.#delay.wait(this.#bell);
			}
	}

	async #listen(): Promise<void> {
		let broken: Error | undefined;
		const client = await connect(this.configs, (error) => {
			broken = error;
			this.#bell.ring();
		});
		try {
			client.on('notification', ({ payload }) => {
				if (!payload || this.queue === null || payload === this.queue) this.wake();
			});
			await client.query('LISTEN task_queue');
			this.#delay.reset();
			this.#say('listening');
			this.wake();
			while (!this.#stopping) {
				await this.#bell.wait(this.checkInterval);
				if (broken) throw broken;
				if (!this.#stopping) await client.query('SELECT');
			}
		} finally {
			await disconnect(client);
		}
	}

	#say(message: string): void {
		if (this.#said !== message) this.log(message);
		this.#said = message;
	}
}
