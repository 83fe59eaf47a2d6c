/** The interface between the daemon and QEMU: a machine, its specification, and the runner (launch.ts). */
import type { NicBackend } from '../engine/engine.ts';

/** QEMU's accelerator. */
export type Accelerator = 'kvm' | 'hvf' | 'tcg';

export type Boot =
  /** QEMU loads kernel and initrd; the disk has no boot loader. */
  | { kind: 'direct'; kernel: string; initrd: string; append: string }
  /** The firmware starts the disk's boot loader. `seed`: a NoCloud image. */
  | { kind: 'firmware'; seed?: string };

export interface MachineSpec {
  uuid: string;
  name: string;
  /** Directory of disk and saved memory; owned by `uid`. */
  stateDir: string;
  /** Directory of sockets, pid file and logs (`machineFiles`). */
  runDir: string;
  /** MiB. */
  ram: number;
  cpus: number;
  /** qcow2 file. */
  disk: string;
  boot: Boot;
  /** null: no card. MTU in bytes. */
  nic: { insideMac: number; controller: 'virtio-net' | 'e1000'; linkUp: boolean; mtu: number } | null;
  /** User and group that QEMU runs as; the caller's own if it is not root. */
  uid: number;
  gid: number;
  accel: Accelerator;
  /** Saved memory to resume from; removed once loaded, before the CPUs run. */
  resumeFrom?: string;
}

/** Why QEMU exited. */
export interface MachineExit {
  /** `guest-shutdown`: powered off by the guest. `quit`: stopped by the daemon. `crash`: anything else. */
  cause: 'guest-shutdown' | 'quit' | 'crash';
  /** For `crash`: a sentence with the last lines of qemu.log. */
  reason: string;
}

export interface Machine {
  readonly uuid: string;
  readonly pid: number;
  /** QEMU's run state; `paused` also while memory is being saved. */
  status(): Promise<'running' | 'paused'>;
  /** Presses the ACPI power button. Does not wait for the guest. */
  powerDown(): Promise<void>;
  /** Stops QEMU at once. Resolves when it has exited. */
  quit(): Promise<void>;
  /** Hard reset. */
  reset(): Promise<void>;
  /** Sets the link of the guest's card up or down. */
  setLink(up: boolean): Promise<void>;
  /** Removes the card by PCI hotplug, and then its backend. */
  removeCard(): Promise<void>;
  /** Adds a card with a new backend by PCI hotplug. The guest must have none. */
  addCard(nic: NonNullable<MachineSpec['nic']>, backend: NicBackend): Promise<void>;
  hasCard(): Promise<boolean>;
  /** Saves memory to `file`, under another name first, and stops QEMU. */
  suspendTo(file: string, onProgress?: (fraction: number) => void): Promise<void>;
  /** Copies the disk's present content into a new overlay of the same image. The guest keeps running. */
  copyDisk(file: string): Promise<void>;
  /** Cancels the copy or save that a previous daemon had started. The guest stays running or paused. */
  cancelJobs(): Promise<void>;
  /** Resumes a paused guest. */
  unpause(): Promise<void>;
  /** Closes the QMP connection; the guest keeps running. */
  detach(): void;
  /** Resolves when QEMU has exited, for any cause; never after `detach`. */
  readonly exited: Promise<MachineExit>;
}

export interface MachineRunner {
  accelerator(): Promise<Accelerator>;
  /** Starts QEMU; resolves when the guest's CPUs run. Throws with the last lines of qemu.log. */
  launch(spec: MachineSpec, backend: NicBackend | null, onProgress?: (fraction: number) => void): Promise<Machine>;
  /** The machine that runs in this directory, by pid file and QMP socket; null if there is none. */
  adopt(uuid: string, runDir: string): Promise<Machine | null>;
}

/** Progress of a long operation: a step, and a fraction from 0 to 1 if it is known. */
export type Progress = (step: string, fraction?: number) => void;

/** The built-in guest. */
export interface BaseImage {
  disk: string;
  kernel: string;
  initrd: string;
  append: string;
  /** Private ssh key for the guest's user anka; created with the image. */
  identityFile: string;
}
