/** Whoever waits is woken by ring(). Rung while nobody waits, it ends the next wait at once. */
export class Bell {
	#rung = false;
	#wake = () => {};

	ring(): void {
		this.#rung = true;
		this.#wake();
	}

	async wait(ms: number): Promise<void> {
		if (!this.#rung && ms > 0)
			await new Promise<void>((resolve) => {
				const timer = setTimeout(resolve, Math.min(ms, 2 ** 31 - 1));
				this.#wake = () => {
					clearTimeout(timer);
					resolve();
				};
			});
		this.#wake = () => {};
		this.#rung = false;
	}
}
