import type { Bell } from './bell.js';

const first = 250;
const ceiling = 10_000;

/** A wait that grows from one failure to the next, with a ceiling, and by chance, so that not all come at once. */
export class Delay {
	#next = first;

	reset(): void {
		this.#next = first;
	}

	/** Waits, or until somebody rings. */
	async wait(bell: Bell): Promise<void> {
		const ms = this.#next * (0.75 + Math.random() / 2);
		this.#next = Math.min(2 * this.#next, ceiling);
		await bell.wait(ms);
	}
}
