/**
 * The instances on disk, so that a controller that is started again knows which VMs are its own.
 *
 * Theory of operation: one JSON file, written anew for each change and renamed over the old one, with both on disk
 * before the change counts. A crash leaves the old content or the new one. Startup scripts are in it: mode 0600.
 *
 * Limits: one process writes it (the controller's lock). A damaged file is not repaired, as its VMs would become
 * templates.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { AnkaError } from '../lib/errors.ts';
import type { Instance } from './instance.ts';

const VERSION = 1;

interface Content {
  version: number;
  /** This host's id as a node. */
  node: string;
  instances: Instance[];
}

export class InstanceFile {
  readonly #path: string;
  /** This host's id as a node; it stays the same. */
  readonly node: string;
  /** As of the last start. */
  readonly stored: readonly Instance[];

  /** Throws `badState` if the file is damaged, or of a later version. */
  constructor(path: string) {
    this.#path = path;
    const content = readContent(path);
    this.node = content?.node ?? randomUUID();
    this.stored = content?.instances ?? [];
    if (content === null) this.save([]);
  }

  /** Throws the file system's error, and leaves the old content. */
  save(instances: readonly Instance[]): void {
    const part = `${this.#path}.part`;
    const content: Content = { version: VERSION, node: this.node, instances: [...instances] };
    try {
      rmSync(part, { force: true });
      const fd = openSync(part, 'wx', 0o600);
      try {
        writeFileSync(fd, JSON.stringify(content));
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      renameSync(part, this.#path);
      syncDirectory(dirname(this.#path));
    } catch (cause) {
      rmSync(part, { force: true }); // the disk may be full
      throw cause;
    }
  }
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function readContent(path: string): Content | null {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw cause;
  }
  const content = parse(text);
  if (content === null) throw damaged(path, 'it is damaged');
  if (content.version !== VERSION) throw damaged(path, 'a later version of anka wrote it');
  return content;
}

function parse(text: string): Content | null {
  try {
    const value = JSON.parse(text) as Partial<Content> | null;
    const isContent = typeof value?.version === 'number' && typeof value.node === 'string' && Array.isArray(value.instances);
    return isContent && value.instances?.every(isInstance) ? (value as Content) : null;
  } catch {
    return null;
  }
}

function isInstance(value: Partial<Instance> | null): boolean {
  return typeof value?.id === 'string' && typeof value.state === 'string' && typeof value.created === 'number';
}

function damaged(path: string, why: string): AnkaError {
  return new AnkaError('badState', `the file of instances ${path} cannot be used: ${why}; restore it, or remove it and delete its VMs with 'anka delete'`);
}
