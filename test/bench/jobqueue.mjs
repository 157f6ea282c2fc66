// jobqueue as a peer of the harness that runs the rivals: ./bench drain jobqueue peer-file=/path/to/jobqueue.mjs
// In an empty database of a server that preloads jobqueue. What is measured is what the server's settings say.
import { execFileSync } from 'node:child_process';
import path from 'node:path';

const peers = JSON.parse(
	execFileSync('python3', ['-B', path.join(import.meta.dirname, 'peers.py')], { maxBuffer: 1 << 24 }));
for (const peer of Object.values(peers)) {
	const statements = peer.fill;
	peer.fill = n => statements.replaceAll('$n', n);
}
export default peers;
