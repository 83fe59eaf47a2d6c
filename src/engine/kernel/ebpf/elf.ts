/**
 * What is read of an ELF file (System V ABI, chapters 4 and 5): sections by name, the symbols that they refer to, and
 * the function in them. Pure. Limits: 64 bits, little-endian; of relocations, those without an addend of their own.
 */
import { AnkaError } from '../../../lib/errors.ts';

/** Offsets of the header, and of entries of its tables. */
const HEADER = { sectionTable: 0x28, entrySize: 0x3a, entryCount: 0x3c, nameSection: 0x3e } as const;
const SECTION = { name: 0, offset: 0x18, size: 0x20 } as const;
const SYMBOL = { name: 0, info: 4, section: 6, value: 8, length: 24 } as const;
const RELOCATION = { offset: 0, symbol: 12, length: 16 } as const;
const STT_FUNC = 2;

/** A relocation: a position in a section at which the address of a symbol belongs. */
export interface ElfReference {
  /** Of the position, bytes from the beginning of its section. */
  offset: number;
  /** Where the symbol is: a section's name, and bytes from its beginning. */
  section: string;
  value: number;
}

export class ElfFile {
  readonly #bytes: Buffer;
  readonly #title: string;

  /** `title`: the file in messages. */
  constructor(bytes: Buffer, title: string) {
    this.#bytes = bytes;
    this.#title = title;
  }

  /** In the file's memory. Throws `internal` if there is none of this name. */
  section(name: string): Buffer {
    const found = this.#find(name);
    if (!found) throw new AnkaError('internal', `${this.#title} has no section ${name}`);
    return found;
  }

  /** The relocations of a section. */
  references(name: string): ElfReference[] {
    const table = this.#find(`.rel${name}`) ?? Buffer.alloc(0);
    const symbols = this.section('.symtab');
    return entries(table, RELOCATION.length).map((entry) => {
      const symbol = symbols.subarray(entry.readUInt32LE(RELOCATION.symbol) * SYMBOL.length);
      return {
        offset: Number(entry.readBigUInt64LE(RELOCATION.offset)),
        section: this.#nameOf(symbol.readUInt16LE(SYMBOL.section)),
        value: Number(symbol.readBigUInt64LE(SYMBOL.value)),
      };
    });
  }

  /** Name of the function at the beginning of a section. Throws `internal` if there is none. */
  functionIn(name: string): string {
    const found = entries(this.section('.symtab'), SYMBOL.length).find(
      (s) => ((s[SYMBOL.info] ?? 0) & 0xf) === STT_FUNC && s.readBigUInt64LE(SYMBOL.value) === 0n && this.#nameOf(s.readUInt16LE(SYMBOL.section)) === name,
    );
    if (!found) throw new AnkaError('internal', `${this.#title} has no function in its section ${name}`);
    return textAt(this.section('.strtab'), found.readUInt32LE(SYMBOL.name));
  }

  #find(name: string): Buffer | null {
    const count = this.#bytes.readUInt16LE(HEADER.entryCount);
    for (let i = 0; i < count; i++) if (this.#nameOf(i) === name) return this.#contentOf(i);
    return null;
  }

  /** Empty for an index of no section, as SHN_ABS. */
  #nameOf(index: number): string {
    if (index >= this.#bytes.readUInt16LE(HEADER.entryCount)) return '';
    const names = this.#contentOf(this.#bytes.readUInt16LE(HEADER.nameSection));
    return textAt(names, this.#bytes.readUInt32LE(this.#entry(index) + SECTION.name));
  }

  #contentOf(index: number): Buffer {
    const offset = Number(this.#bytes.readBigUInt64LE(this.#entry(index) + SECTION.offset));
    return this.#bytes.subarray(offset, offset + Number(this.#bytes.readBigUInt64LE(this.#entry(index) + SECTION.size)));
  }

  #entry(index: number): number {
    return Number(this.#bytes.readBigUInt64LE(HEADER.sectionTable)) + index * this.#bytes.readUInt16LE(HEADER.entrySize);
  }
}

function entries(table: Buffer, length: number): Buffer[] {
  return Array.from({ length: Math.floor(table.length / length) }, (_, i) => table.subarray(i * length, (i + 1) * length));
}

const textAt = (strings: Buffer, at: number): string => strings.toString('latin1', at, strings.indexOf(0, at));
