// A network between worker and server that can fail.
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';

export class Proxy {
	/** An answer that contains this text is lost, and the connection with it; once. */
	loses: string | undefined;
	lost = 0;
	onLoss = () => {};
	/** Connections are ended at once. */
	refuses = false;
	/** When connections came. */
	readonly times: number[] = [];
	readonly #sockets = new Set<Socket>();
	readonly #server: Server;

	private constructor() {
		this.#server = createServer((client) => this.#accept(client));
	}

	static async start(): Promise<Proxy> {
		const proxy = new Proxy();
		await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
		return proxy;
	}

	/** Where a client finds it. */
	get address(): { host: string; port: number } {
		return { host: '127.0.0.1', port: (this.#server.address() as { port: number }).port };
	}

	/** Ends all connections. */
	cut(): void {
		for (const socket of this.#sockets) socket.destroy();
	}

	stop(): void {
		this.#server.close();
		this.cut();
	}

	#accept(client: Socket): void {
		this.times.push(performance.now());
		if (this.refuses) {
			client.destroy();
			return;
		}
		const server = connect(join(process.env['PGHOST']!, `.s.PGSQL.${process.env['PGPORT']}`));
		for (const [socket, other] of [[client, server], [server, client]] as const) {
			this.#sockets.add(socket);
			socket.on('error', () => {});
			socket.on('close', () => {
				this.#sockets.delete(socket);
				other.destroy();
			});
		}
		client.on('data', (data) => server.write(data));
		server.on('data', (data) => {
			if (this.loses !== undefined && data.includes(this.loses)) {
				this.loses = undefined;
				this.lost++;
				client.destroy();
				this.onLoss();
			} else {
				client.write(data);
			}
		});
	}
}
