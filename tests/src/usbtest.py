"""Has the kernel's usbtest try gadget zero: testusb's tests, in as many rounds as are asked for. Prints how each ends."""
import ctypes, errno, fcntl, glob, sys, time

USBDEVFS_IOCTL = 0xC0105512
USBTEST_REQUEST = 0xC0285564
TESTS = range(30)


class Test(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("number", "rounds", "length", "vary", "pieces")]
    _fields_ += [("seconds", ctypes.c_int64), ("microseconds", ctypes.c_int64)]


class Ioctl(ctypes.Structure):
    _fields_ = [("interface", ctypes.c_int), ("code", ctypes.c_int), ("data", ctypes.c_void_p)]


def node():
    for _ in range(100):
        for driver in glob.glob("/sys/bus/usb/drivers/usbtest/*:*"):
            device = driver + "/../"
            number = [int(open(device + name).read()) for name in ("busnum", "devnum")]
            return "/dev/bus/usb/%03d/%03d" % tuple(number)
        time.sleep(0.2)
    sys.exit("usbtest has no device")


def code(value):
    return ctypes.c_int(value).value


with open(node(), "r+b", buffering=0) as device:
    for number in TESTS:
        test = Test(number, int(sys.argv[1]), 1024, 512, 32)
        ioctl = Ioctl(0, code(USBTEST_REQUEST), ctypes.addressof(test))
        try:
            fcntl.ioctl(device, USBDEVFS_IOCTL, ioctl)
            said = "ok"
        except OSError as error:
            said = errno.errorcode[error.errno]
        print(number, said, flush=True)
