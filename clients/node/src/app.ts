import type { Task } from './task.js';

/** What it returns, or what its promise brings, is the task's result. */
export type Handler<Payload = unknown> = (task: Task<Payload>) => unknown;

/** What a worker needs of an App. */
export interface Runnable {
	readonly types: string[];
	run(task: Task): Promise<unknown>;
}

/**
 * The handlers of an application, by type of task. The type parameter maps the types of tasks to those of their
 * payloads: `new App<{ send_email: { to: string } }>()`.
 */
export class App<Payloads extends object = Record<string, unknown>> implements Runnable {
	readonly #handlers = new Map<string, Handler<any>>();

	/** The handler of a type. There is one for each. */
	handler<Type extends keyof Payloads & string>(type: Type, handler: Handler<Payloads[Type]>): this {
		if (this.#handlers.has(type)) throw new Error(`${type} has a handler already`);
		this.#handlers.set(type, handler);
		return this;
	}

	get types(): string[] {
		return [...this.#handlers.keys()];
	}

	async run(task: Task): Promise<unknown> {
		const handler = this.#handlers.get(task.type);
		if (!handler) throw new Error(`${task.type} has no handler`);
		return await handler(task);
	}
}
