/** The words of a command line as a client sends it, with a shell's single quotes. */
export const shellWords = (line: string): string[] => (line.match(/'[^']*'|\S+/g) ?? []).map((word) => word.replaceAll("'", ''));
