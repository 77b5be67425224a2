"""The steps of a flash, a file each, in the order of jetson.flash.STEPS."""
