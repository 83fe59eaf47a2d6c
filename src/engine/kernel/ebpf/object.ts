/**
 * The committed eBPF objects of assets/bpf/, with the constants of one VM or interface written into a copy.
 *
 * Theory of operation: each object is compiled once from bpf/. What differs between VMs or interfaces is a constant in
 * a copy of the object, which `tc` loads and which is then removed: no maps, no loader but `tc` (decision 0004). The
 * source marks a constant in one of two forms:
 * - the variable `config`, which starts with a marker of its program (`setConfig`);
 * - the operand of a 64-bit load instruction, a placeholder (`setOperand`). It counts in the program's tag, so the tag
 *   proves which value is in force.
 *
 * Limits: 64-bit little-endian ELF. A marker or placeholder that is not there exactly once is an `internal` error.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AnkaError } from '../../../lib/errors.ts';
import { PACKAGE_ROOT } from '../../../lib/package-root.ts';

const MARKER_SIZE = 8;
const LOAD_64 = 0x18;
const INSTRUCTION_SIZE = 8;
/** Offsets of the ELF header, and of an entry of its section table. */
const ELF = { sectionTable: 0x28, entrySize: 0x3a, entryCount: 0x3c, nameSection: 0x3e } as const;
const SECTION = { name: 0, offset: 0x18, size: 0x20 } as const;

export class EbpfObject {
  readonly bytes: Buffer;
  readonly #name: string;

  constructor(name: string) {
    this.#name = name;
    this.bytes = readFileSync(new URL(`assets/bpf/${name}.bpf.o`, PACKAGE_ROOT));
  }

  /** Writes `value` after the marker of the variable `config`. */
  setConfig(marker: string, value: Uint8Array): this {
    const at = this.bytes.indexOf(`${marker}\0`, 0, 'latin1');
    this.#demandOnce(marker, at < 0 ? 0 : this.bytes.indexOf(`${marker}\0`, at + 1, 'latin1') < 0 ? 1 : 2);
    this.bytes.set(value, at + MARKER_SIZE);
    return this;
  }

  /** Writes eight bytes over the placeholder that one instruction of the section loads. */
  setOperand(section: string, placeholder: bigint, value: Buffer): this {
    const code = this.#section(section);
    const low = Number(placeholder & 0xffffffffn);
    const high = Number(placeholder >> 32n);
    const found: number[] = [];
    for (let at = 0; at + 2 * INSTRUCTION_SIZE <= code.length; at += INSTRUCTION_SIZE)
      if (code[at] === LOAD_64 && code.readUInt32LE(at + 4) === low && code.readUInt32LE(at + INSTRUCTION_SIZE + 4) === high) found.push(at);
    this.#demandOnce(`operand in ${section}`, found.length);
    for (const at of found) {
      value.copy(code, at + 4, 0, 4);
      value.copy(code, at + INSTRUCTION_SIZE + 4, 4, 8);
    }
    return this;
  }

  /** Tags that the kernel may give a section's program: SHA-1 of its instructions up to Linux 6.17, then SHA-256. */
  tags(section: string): string[] {
    const code = this.#section(section);
    return (['sha1', 'sha256'] as const).map((digest) => createHash(digest).update(code).digest('hex').slice(0, 16));
  }

  /** A file name with a digest of the content, by which an attached program is compared with the wanted one. */
  fileName(prefix: string): string {
    return `${prefix}${createHash('sha256').update(this.bytes).digest('hex').slice(0, 12)}.o`;
  }

  /** Writes the object to a file for the time that `use` takes. */
  async withFile(dir: string, fileName: string, use: (path: string) => Promise<void>): Promise<void> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const path = join(dir, fileName);
    await writeFile(path, this.bytes, { mode: 0o600 });
    try {
      await use(path);
    } finally {
      await rm(path, { force: true });
    }
  }

  #section(name: string): Buffer {
    const elf = this.bytes;
    const table = Number(elf.readBigUInt64LE(ELF.sectionTable));
    const entry = (i: number): number => table + i * elf.readUInt16LE(ELF.entrySize);
    const offset = (i: number): number => Number(elf.readBigUInt64LE(entry(i) + SECTION.offset));
    const names = offset(elf.readUInt16LE(ELF.nameSection));
    for (let i = 0; i < elf.readUInt16LE(ELF.entryCount); i++) {
      const at = names + elf.readUInt32LE(entry(i) + SECTION.name);
      if (elf.toString('latin1', at, elf.indexOf(0, at)) !== name) continue;
      return elf.subarray(offset(i), offset(i) + Number(elf.readBigUInt64LE(entry(i) + SECTION.size)));
    }
    throw new AnkaError('internal', `the eBPF object ${this.#name} has no section ${name}`);
  }

  #demandOnce(constant: string, count: number): void {
    if (count !== 1)
      throw new AnkaError('internal', `the eBPF object ${this.#name} has the constant ${constant} ${count === 0 ? 'nowhere' : 'more than once'}`);
  }
}
