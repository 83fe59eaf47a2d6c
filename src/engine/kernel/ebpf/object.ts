/**
 * The committed eBPF objects of assets/bpf/, with the constants of one VM or interface written into a copy in memory.
 *
 * Theory of operation: each object is compiled once from bpf/. What differs between VMs or interfaces is a constant, so
 * no program needs a map that is changed later (decision 0004). The source marks a constant in one of two forms:
 * - the variable `config`, which starts with a marker of its program (`setConfig`);
 * - the operand of a 64-bit load instruction, a placeholder (`setOperand`). It counts in the program's tag, so the tag
 *   proves which value is in force.
 *
 * Limits: 64-bit little-endian ELF. A marker or placeholder that is not there exactly once is an `internal` error.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { BpfCode } from '../../../host/ffi/bpf.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { PACKAGE_ROOT } from '../../../lib/package-root.ts';
import { ElfFile } from './elf.ts';

const MARKER_SIZE = 8;
const LOAD_64 = 0x18;
const INSTRUCTION_SIZE = 8;
/** The section of the variable `config`. */
const CONSTANTS = '.rodata';

/** What the files contain. */
const files = new Map<string, Buffer>();

function contentOf(name: string): Buffer {
  const content = files.get(name) ?? readFileSync(new URL(`assets/bpf/${name}.bpf.o`, PACKAGE_ROOT));
  files.set(name, content);
  return content;
}

export class EbpfObject {
  readonly bytes: Buffer;
  readonly #title: string;
  readonly #elf: ElfFile;

  constructor(name: string) {
    this.#title = `the eBPF object ${name}`;
    this.bytes = Buffer.from(contentOf(name));
    this.#elf = new ElfFile(this.bytes, this.#title);
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
    const code = this.#elf.section(section);
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
    const code = this.#elf.section(section);
    return (['sha1', 'sha256'] as const).map((digest) => createHash(digest).update(code).digest('hex').slice(0, 16));
  }

  /** The program of a section, to be loaded into the kernel. */
  program(section: string): BpfCode {
    const references = this.#elf.references(section);
    const other = references.find((r) => r.section !== CONSTANTS);
    if (other) throw new AnkaError('internal', `${this.#title} refers to its section ${other.section}, which is not loaded`);
    return {
      name: this.#elf.functionIn(section),
      license: this.#elf.section('license'),
      instructions: this.#elf.section(section),
      data: references.length === 0 ? null : this.#elf.section(CONSTANTS),
      references: references.map(({ offset, value }) => ({ instruction: offset, value })),
    };
  }

  /** A name with a digest of the content, by which an attached program is compared with the wanted one. */
  fileName(prefix: string): string {
    return `${prefix}${createHash('sha256').update(this.bytes).digest('hex').slice(0, 12)}.o`;
  }

  #demandOnce(constant: string, count: number): void {
    if (count !== 1) throw new AnkaError('internal', `${this.#title} has the constant ${constant} ${count === 0 ? 'nowhere' : 'more than once'}`);
  }
}
