/** nftables: rules are applied as text in one transaction. netlink/ reads them. */
import { AnkaError } from '../lib/errors.ts';
import { run } from './exec.ts';

/** Applies `text` in one transaction. */
export async function applyNft(text: string): Promise<void> {
  await run('nft', ['-f', '-'], { input: `${text}\n` });
}

/** Whether nft and the kernel would accept `text`. Changes nothing. */
export async function acceptsNft(text: string): Promise<boolean> {
  try {
    await run('nft', ['-c', '-f', '-'], { input: `${text}\n` });
    return true;
  } catch (cause) {
    if (cause instanceof AnkaError && cause.kind === 'missingProgram') throw cause;
    return false;
  }
}
